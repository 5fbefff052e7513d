"""Words that show when something wrote over them: each flipped bit, and none of the good ones."""
import pytest

from asgi_ipc._shm.words import TWIN, Damage, sealed, single, unsealed

NUMBERS = [0, 1, 2, 255, 65536, 2 ** 31, 2 ** 32 - 1]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_twin_gives_its_number_and_notices_each_flipped_bit(number):
    assert single(number * TWIN) == number
    for bit in range(64):
        with pytest.raises(Damage):
            single(number * TWIN ^ 1 << bit)


def test_twins_add_and_subtract_as_they_are():
    total = 5 * TWIN + 2 ** 31 * TWIN - 6 * TWIN
    assert single(total) == 2 ** 31 - 1


@pytest.mark.parametrize("number", NUMBERS + [2 ** 48 - 1])
def test_a_seal_holds_and_notices_each_flipped_bit(number):
    assert unsealed(sealed(number)) == number
    for bit in range(64):
        assert unsealed(sealed(number) ^ 1 << bit) is None


def test_what_was_never_sealed_is_not_taken_for_it():
    assert unsealed(0) is None
    assert unsealed(2 ** 64 - 1) is None
