"""Prefixes and fixtures for tests: nobody shares them, and nothing of them is left."""
from __future__ import unicode_literals

import copy
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap

import pytest
from storekit import Child, in_child

from asgi_ipc import IPCChannelLayer, existing, testing
from asgi_ipc._shm.segment import runtime_folder

SUITE = """
    from __future__ import unicode_literals

    import os

    import pytest

    from asgi_ipc.existing import find

    BEFORE = []

    @pytest.mark.parametrize("number", range(20))
    def test_it_is_alone(ipc_layer, make_ipc_layer, number):
        with open(os.path.join(os.path.dirname(__file__), "prefixes"), "a") as stream:
            stream.write("{0} {1}\\n".format(
                os.environ.get("PYTEST_XDIST_WORKER", "main"), ipc_layer.prefix
            ))
        # What was the test's goes with the test.
        assert not any(find(prefix) for prefix in BEFORE)
        BEFORE.append(ipc_layer.prefix)
        ipc_layer.send("jobs", {"number": number})
        other = make_ipc_layer(capacity=1)
        assert other.statistics()["messages"]["waiting"] == 1
        assert other.receive(["jobs"]) == ("jobs", {"number": number})
        assert ipc_layer.check() == []
"""


def environment(**more):
    variables = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), **more)
    # As if nobody above us ran tests.
    for name in (testing.VARIABLE, "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        if name not in more:
            variables.pop(name, None)
    return variables


def python(code, **options):
    """Start a Python with some code, its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
        env=environment(**options),
    )


def output_of(process):
    output = process.communicate("")[0]
    assert process.returncode == 0
    return output.split()


def run_suite(folder, *options, **texts):
    """Run a suite of tests; the prefixes it used, each with its process, and its output."""
    folder.join("conftest.py").write('pytest_plugins = ["asgi_ipc.testing"]\n')
    for name, text in texts.items():
        folder.join(name + ".py").write(textwrap.dedent(text))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    process = subprocess.Popen(
        command + list(options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        env=environment(),
        cwd=str(folder),
    )
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return [tuple(line.split()) for line in folder.join("prefixes").read().splitlines()], output


def left_of(run):
    """What is left of a run, or a prefix, in shared memory and beside it."""
    return [name for name in os.listdir(runtime_folder()) if run in name]


def run_of(prefix):
    return prefix.rsplit("-", 1)[0]


@pytest.fixture
def fresh_run(monkeypatch):
    """A run of this test alone in this process."""
    monkeypatch.delenv(testing.VARIABLE, raising=False)
    monkeypatch.setattr(testing, "_run", testing._Run())
    yield testing._run
    testing.clean_up()


def test_each_test_has_a_prefix(tmpdir):
    used, output = run_suite(tmpdir, test_suite=SUITE)
    assert "20 passed" in output
    assert len({prefix for _, prefix in used}) == 20
    assert len({run_of(prefix) for _, prefix in used}) == 1
    assert left_of(run_of(used[0][1])) == []


def test_each_worker_of_xdist_has_prefixes(tmpdir):
    pytest.importorskip("xdist")
    used, output = run_suite(tmpdir, "-n", "2", test_suite=SUITE)
    assert "20 passed" in output
    assert {worker for worker, _ in used} == {"gw0", "gw1"}
    assert len({prefix for _, prefix in used}) == 20
    runs = {(worker, run_of(prefix)) for worker, prefix in used}
    assert len(runs) == len({run for _, run in runs}) == 2
    for _, run in runs:
        assert left_of(run) == []


def test_workers_do_not_join_the_run_of_who_starts_them(tmpdir):
    """The controller may have read the prefix, from the settings, before it starts them."""
    pytest.importorskip("xdist")
    settings = """
        from asgi_ipc import testing

        CONFIG = testing.isolated_config()
    """
    suite = """
        import os

        import pytest
        import settings

        @pytest.mark.parametrize("number", range(8))
        def test_one(number):
            with open(os.path.join(os.path.dirname(__file__), "prefixes"), "a") as stream:
                stream.write("{0} {1}\\n".format(
                    os.environ["PYTEST_XDIST_WORKER"], settings.CONFIG["prefix"]
                ))
    """
    plugin = "import settings\nsettings.CONFIG['prefix']\n"
    used, _ = run_suite(
        tmpdir, "-n", "2", "-p", "early", settings=settings, test_suite=suite, early=plugin
    )
    assert len({worker for worker, _ in used}) == len({prefix for _, prefix in used}) == 2


def test_what_a_killed_run_leaves_goes_with_the_next_one(fresh_run):
    process = python(
        """
        import sys

        from asgi_ipc import IPCChannelLayer, testing

        prefix = testing.new_prefix()
        IPCChannelLayer(prefix=prefix)
        print(prefix)
        sys.stdout.flush()
        sys.stdin.read()
        """
    )
    prefix = process.stdout.readline().strip()
    # As long as it lives, it is left alone.
    testing.new_prefix()
    assert len(existing.find(prefix)) == 2
    process.kill()
    process.communicate()
    assert len(existing.find(prefix)) == 2
    testing.clean_up()
    testing.new_prefix()
    assert existing.find(prefix) == []
    assert left_of(run_of(prefix)) == []


def test_what_was_forked_keeps_the_prefix_alive(fresh_run):
    """A live server's process, for instance, after its test was killed."""

    def parent():
        prefix = testing.new_prefix()
        IPCChannelLayer(prefix=prefix)
        child = Child(signal.pause)
        os.write(writer, "{0} {1}".format(child.pid, prefix).encode("ascii"))
        os.kill(os.getpid(), signal.SIGKILL)

    reader, writer = os.pipe()
    Child(parent).close()
    pid, prefix = os.read(reader, 1000).decode("ascii").split()
    os.close(reader)
    os.close(writer)
    try:
        testing._sweep()
        assert len(existing.find(prefix)) == 2
    finally:
        os.kill(int(pid), signal.SIGKILL)
        wait_for_end(int(pid))
    testing._sweep()
    assert existing.find(prefix) == []


def wait_for_end(pid):
    """Of a process that is not our child: its locks are gone when it is, or a zombie."""
    import psutil

    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        pass


def test_a_process_that_ends_removes_its_prefixes():
    prefixes = output_of(
        python(
            """
            from asgi_ipc import IPCChannelLayer, testing

            for _ in range(2):
                layer = IPCChannelLayer(prefix=testing.new_prefix())
                print(layer.prefix)
            """
        )
    )
    assert len(set(prefixes)) == 2
    assert left_of(run_of(prefixes[0])) == []


def test_a_child_that_ends_removes_nothing(fresh_run):
    prefix = testing.new_prefix()
    IPCChannelLayer(prefix=prefix).close()
    in_child(testing.clean_up)
    assert len(existing.find(prefix)) == 2
    testing.clean_up()
    assert existing.find(prefix) == []


def test_prefixes_of_forked_children_differ_and_go_with_the_parent(fresh_run):
    testing.new_prefix()

    def child():
        layer = IPCChannelLayer(prefix=testing.new_prefix())
        return layer.prefix

    prefixes = [in_child(child) for _ in range(5)]
    assert len(set(prefixes)) == 5
    assert all(existing.find(prefix) for prefix in prefixes)
    testing.clean_up()
    assert left_of(fresh_run.name) == []
    assert not any(existing.find(prefix) for prefix in prefixes)


def test_the_list_of_a_run_removes_nothing_of_others(fresh_run, prefix):
    IPCChannelLayer(prefix=prefix).close()
    testing.new_prefix()
    os.write(fresh_run._mark, (prefix + "\n").encode("ascii"))
    testing.clean_up()
    assert len(existing.find(prefix)) == 2


def test_a_configuration_does_nothing_before_it_is_read(fresh_run):
    config = testing.isolated_config(capacity=3)
    assert "capacity" in repr(config)
    assert sorted(config) == ["capacity", "prefix"]
    assert fresh_run._mark is None
    assert testing.VARIABLE not in os.environ
    assert config["prefix"] == dict(config)["prefix"] == copy.deepcopy(config)["prefix"]
    assert fresh_run._mark is not None
    assert len(config) == 2


def test_a_configuration_makes_a_layer(fresh_run):
    first, second = testing.isolated_config(capacity=3), testing.isolated_config()
    with IPCChannelLayer(**first) as layer, IPCChannelLayer(**second) as other:
        assert layer.capacity == 3
        assert layer.prefix == first["prefix"] != other.prefix
        assert layer.prefix.startswith(testing.NAME)
    testing.clean_up()
    assert left_of(layer.prefix) == []


def test_children_share_a_configuration_whoever_reads_it_first(fresh_run):
    config = testing.isolated_config()
    prefixes = [in_child(lambda: config["prefix"]) for _ in range(2)]
    prefixes.append(config["prefix"])
    assert len(set(prefixes)) == 1


def test_a_process_that_is_started_shares_the_configuration(fresh_run):
    config = testing.isolated_config()
    code = "from asgi_ipc import testing; print(testing.isolated_config()['prefix'])"
    prefix = config["prefix"]
    inherited = (testing.VARIABLE, "PYTEST_XDIST_WORKER")
    joined = {name: os.environ[name] for name in inherited if name in os.environ}
    assert output_of(python(code, **joined)) == [prefix]
    # It has not ended what is not its own.
    assert left_of(fresh_run.name)
    worker = dict(joined, PYTEST_XDIST_WORKER="gw7")
    assert output_of(python(code, **worker)) != [prefix]
    testing.clean_up()
    assert testing.VARIABLE not in os.environ
    assert output_of(python(code, **joined)) != [prefix]


def test_a_prefix_of_its_own_is_not_given(fresh_run):
    with pytest.raises(ValueError, match="chooses the prefix itself"):
        testing.isolated_config(prefix="mine")


def test_prefixes_are_short_enough_for_every_system(fresh_run):
    longest = 31 - len("/-messages")
    assert len(testing.new_prefix()) <= longest
    assert len(testing.isolated_config()["prefix"]) <= longest


def test_a_removed_prefix_is_gone(fresh_run):
    prefix = testing.new_prefix()
    IPCChannelLayer(prefix=prefix).close()
    assert testing.remove(prefix)
    assert not testing.remove(prefix)


def test_nothing_of_another_name_is_swept(fresh_run):
    path = os.path.join(runtime_folder(), "nobody{0}.tests".format(os.getpid()))
    with open(path, "wb"):
        pass
    try:
        testing._sweep()
        assert os.path.exists(path)
    finally:
        os.unlink(path)


def test_a_link_is_not_followed(fresh_run, tmpdir):
    """Everybody may put one into the folder."""
    target = tmpdir.join("target")
    target.write("mine")
    link = os.path.join(runtime_folder(), "test-link{0}.tests".format(os.getpid()))
    os.symlink(str(target), link)
    try:
        testing._sweep()
        assert target.read() == "mine"
        assert os.path.islink(link)
    finally:
        os.unlink(link)


def test_a_name_that_is_taken_is_refused(fresh_run, tmpdir):
    link = os.path.join(runtime_folder(), fresh_run.name + testing.MARK)
    os.symlink(str(tmpdir.join("target")), link)
    try:
        with pytest.raises(OSError) as error:
            testing.new_prefix()
        assert str(link) in str(error.value)
        assert not tmpdir.join("target").check()
    finally:
        os.unlink(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_run_is_his_own(fresh_run):
    path = os.path.join(runtime_folder(), "test-other{0}.tests".format(os.getpid()))
    with open(path, "wb"):
        pass
    os.chown(path, 12345, 12345)
    try:
        testing._sweep()
        assert os.path.exists(path)
    finally:
        os.unlink(path)


def test_a_list_that_was_removed_by_hand_is_no_trouble(fresh_run):
    prefix = testing.new_prefix()
    IPCChannelLayer(prefix=prefix).close()
    os.unlink(os.path.join(runtime_folder(), fresh_run.name + testing.MARK))
    testing.clean_up()
    assert existing.find(prefix) == []


def test_the_fixtures_are_listed_with_what_they_are_for(tmpdir):
    tmpdir.join("conftest.py").write('pytest_plugins = ["asgi_ipc.testing"]\n')
    listed = subprocess.check_output(
        [sys.executable, "-m", "pytest", "--fixtures", str(tmpdir)],
        env=environment(),
        cwd=str(tmpdir),
    ).decode("utf-8")
    found = re.findall(r"^(\w*ipc\w*)\b.*\n    \S", listed, re.MULTILINE)
    assert set(found) == {
        "ipc_prefix",
        "make_ipc_layer",
        "ipc_layer",
        "make_async_ipc_layer",
        "async_ipc_layer",
        "ipc_channel_layers",
    }


def test_a_configuration_can_be_pickled(fresh_run):
    """Django hands settings to processes that it spawns."""
    config = testing.isolated_config(capacity=3)
    prefix = config["prefix"]
    copied = pickle.loads(pickle.dumps(config, 2))
    assert dict(copied) == {"prefix": prefix, "capacity": 3}
