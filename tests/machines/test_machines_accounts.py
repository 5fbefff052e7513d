"""That an account finds what is wrong: else the tests of faults could not fail."""
from accounts import Account, Case


class Told:
    """An agent with made-up memories: ``[origin, number, member, sent, received]``."""

    def __init__(self, name, number, stamps, heard):
        self.name, self.place = name, self
        self.number = number
        self._stamps, self._heard = stamps, heard

    def sent(self):
        return {"stamps": self._stamps}

    def heard(self):
        return self._heard


HERE = [["a", 0, 0, 1.0, 1.1], ["a", 1, 0, 2.0, 2.1]]
THERE = [["a", 0, 0, 1.0, 1.5], ["a", 1, 0, 2.0, 2.5]]


def account(heard, here=HERE):
    return Account([Told("a", 0, [1.0, 2.0], here), Told("b", 1, [], heard)], members=1)


def test_nothing_is_wrong():
    good = account(THERE)
    assert good.doubled() == good.disordered() == good.missing() == good.late(0.6) == []
    assert (good.total, good.slowest(near=False)) == (2, 0.5)
    assert round(good.slowest(near=True), 3) == 0.1
    assert "2 messages, 0 not heard elsewhere, 0 twice" in good.summary()


def test_twice():
    assert account([*THERE, THERE[1]]).doubled() == [("b", ("a", 1), [0, 0])]


def test_out_of_order():
    assert account(THERE[::-1]).disordered() == [("b", "a", 0, 1)]


def test_missing():
    lost = account(THERE[:1])
    assert lost.missing() == lost.missing(near=False) == [Case("b", "a", 1, 2.0)]
    assert lost.missing(near=True) == []
    assert account(THERE, here=[]).missing(near=True) == [
        Case("a", "a", 0, 1.0), Case("a", "a", 1, 2.0)
    ]


def test_late():
    assert account(THERE).late(0.4) == [("b", *record) for record in THERE]


def test_one_of_two_members_did_not_get_it():
    agents = [Told("a", 0, [1.0], [["a", 0, 0, 1.0, 1.1], ["a", 0, 1, 1.0, 1.1]]),
              Told("b", 1, [], [["a", 0, 1, 1.0, 1.1]])]
    assert Account(agents, members=2).missing() == [Case("b", "a", 0, 1.0)]
