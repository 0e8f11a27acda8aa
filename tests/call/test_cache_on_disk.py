"""DiskCache: what it keeps, what it survives, and who shares it."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG
from fast_dag.cache import DiskCache, disk
from fast_dag.store.codec import Pickle, Plain
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_dag import Run

    Execute = Callable[..., Run]


def double(x: Any) -> Any:
    return [x, x]


def cached(cache: Any, func: Callable[..., Any] = double, **options: Any) -> DAG:
    dag = DAG("cached")
    dag.cached_node(name="f", backend=cache, **options)(func)
    return dag


def hits(dag: DAG, **inputs: Any) -> int:
    return int(dag.execute(**inputs).metrics["cache_hits"])


def entries(path: Path) -> list[Path]:
    return [each for each in path.rglob("*") if each.is_file()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# What is kept.


def test_a_result_is_found_by_other_objects_for_the_directory(execute: Execute, path: Path) -> None:
    first = execute(cached(DiskCache(path)), x=1)
    assert (first.value, first.metrics["cache_misses"]) == ([1, 1], 1)
    again = execute(cached(DiskCache(str(path))), x=1)
    assert (again.value, again.metrics["cache_hits"]) == ([1, 1], 1)
    assert execute(cached(DiskCache(path)), x=2).metrics["cache_hits"] == 0


def test_none_is_kept_like_any_value(path: Path) -> None:
    dag = cached(DiskCache(path), lambda x: None)
    assert [hits(dag, x=1) for _ in range(2)] == [0, 1]


def test_results_expire(path: Path) -> None:
    dag = cached(DiskCache(path), ttl=1e-9)
    assert [hits(dag, x=1) for _ in range(2)] == [0, 0]
    dag = cached(DiskCache(path), ttl=3600)
    assert [hits(dag, x=1) for _ in range(2)] == [0, 1]


def test_results_are_forgotten_on_demand(path: Path) -> None:
    dag = cached(DiskCache(path))
    for x in (1, 2):
        dag.run(x=x)
    dag.invalidate_cache("f", x=1)
    assert [hits(dag, x=1), hits(dag, x=2)] == [0, 1]
    dag.invalidate_cache("f")
    assert len(entries(path)) == 1, "what is left tells of the invalidation"
    assert [hits(dag, x=1), hits(dag, x=2), hits(dag, x=1)] == [0, 0, 1]


def test_an_invalidation_reaches_other_objects_at_once(execute: Execute, path: Path) -> None:
    one, other = cached(DiskCache(path)), cached(DiskCache(os.path.join(path, "..", "cache")))
    execute(one, x=1)
    assert execute(other, x=1).metrics["cache_hits"] == 1
    asyncio.run(one.invalidate_cache_async("f"))
    assert execute(other, x=1).metrics["cache_hits"] == 0
    assert execute(one, x=1).metrics["cache_hits"] == 1


def test_clear_deletes_what_is_its_own(path: Path) -> None:
    cache = DiskCache(path)
    cached(cache).run(x=1)
    own = path / "notes.txt"
    own.write_text("mine")
    cache.clear()
    assert entries(path) == [own]
    assert hits(cached(cache), x=1) == 0


def test_nothing_is_written_before_there_is_a_result(path: Path) -> None:
    cache = DiskCache(path)
    assert cache.get("a:b") is None
    cache.delete("a:b")
    cache.forget("a")
    cache.clear()
    assert not path.exists()


def test_only_its_owner_can_read_an_entry(path: Path) -> None:
    cached(DiskCache(path)).run(x=1)
    assert [each.stat().st_mode & 0o077 for each in entries(path)] == [0]


def test_names_and_keys_of_any_length_and_script(path: Path) -> None:
    dag = DAG("ünï")
    for name in ("x" * 5000, "日本語", "a/b\\c:d\n", "\ud800"):
        dag.cached_node(name=name, backend=DiskCache(path))(double)
    inputs = {"x": "ключ" * 9999}
    assert dag.execute(**inputs).metrics["cache_hits"] == 3, "of one function"
    assert dag.execute(**inputs).metrics["cache_hits"] == 4


def test_a_linked_directory_is_the_directory(tmp_path: Path, path: Path) -> None:
    path.mkdir()
    (tmp_path / "link").symlink_to(path)
    cached(DiskCache(tmp_path / "link")).run(x=1)
    assert hits(cached(DiskCache(path)), x=1) == 1


def test_a_relative_path_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dag = cached(DiskCache("here"))
    monkeypatch.chdir("/")
    dag.run(x=1)
    assert entries(tmp_path / "here") != []


def test_objects_for_one_directory_are_equal_and_pickle(path: Path) -> None:
    cache = DiskCache(path, max_bytes=1000)
    assert pickle.loads(pickle.dumps(cache)) == cache == DiskCache(path)
    assert pickle.loads(pickle.dumps(cache)).max_bytes == 1000
    assert DiskCache(path) != DiskCache(path / "other")
    assert len({DiskCache(path), cache}) == 1
    assert repr(cache) == f"DiskCache({str(path)!r}, max_bytes=1000)"
    cache.set("a:b", (1, None))
    assert pickle.loads(pickle.dumps(cache)).get("a:b") == (1, None)


@pytest.mark.parametrize("bound", [0, -1, 1.5, True, "1G"])
def test_a_bound_is_a_number_of_bytes(bound: Any, path: Path) -> None:
    with pytest.raises(ValueError, match="max_bytes is a number of bytes"):
        DiskCache(path, max_bytes=bound)


# What cannot be read, or written.


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def damaged(file: Path) -> None:
    """In a way that a pickle does not notice."""
    data = file.read_bytes()
    assert data.count(b"K\x01") == 2
    file.write_bytes(data.replace(b"K\x01", b"K\x02"))


def of_another_format(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"cache 1", b"cache 9"))


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "truncated": truncated,
    "a byte is another": damaged,
    "garbage": lambda file: file.write_bytes(os.urandom(5000)),
    "a pickle": lambda file: file.write_bytes(pickle.dumps((1, None))),
    "another format": of_another_format,
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_cannot_be_read_is_computed_again(damage: Callable[[Path], Any], path: Path) -> None:
    dag = cached(DiskCache(path))
    dag.run(x=1)
    (file,) = entries(path)
    damage(file)
    assert (dag.run(x=1), dag.context.metrics["cache_hits"]) == ([1, 1], 0)
    assert hits(dag, x=1) == 1


def test_an_entry_under_the_name_of_another_is_none(path: Path) -> None:
    dag = cached(DiskCache(path))
    for x in (1, 2):
        dag.run(x=x)
    one, other = entries(path)
    one.write_bytes(other.read_bytes())
    assert [dag.run(x=x) for x in (1, 2)] == [[1, 1], [2, 2]]


class Gone:
    """A class that later versions of a program lack."""


def test_a_value_whose_class_is_gone_is_computed_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag = cached(DiskCache(path), lambda x, kind=Gone: kind(), version=1)
    dag.run(x=1)
    assert hits(dag, x=1) == 1
    monkeypatch.setattr(sys.modules[__name__], "Gone", None)
    with pytest.warns(RuntimeWarning, match="could not write"):  # that of the old one is no more
        assert hits(dag, x=1) == 0


class Unloadable:
    def __reduce__(self) -> Any:
        return pickle.loads, (b"no pickle",)


def test_a_value_that_does_not_load_is_computed_again(path: Path) -> None:
    dag = cached(DiskCache(path), lambda x: Unloadable())
    assert [hits(dag, x=1), hits(dag, x=1)] == [0, 0]


def test_what_does_not_pickle_is_not_kept_with_one_warning(execute: Execute, path: Path) -> None:
    dag = cached(DiskCache(path), lambda x: threading.Lock())
    with pytest.warns(RuntimeWarning, match=r"'f' could not write .*pickle.*not kept") as warned:
        runs = [execute(dag, x=1) for _ in range(2)]
    assert len(warned) == 1
    assert [run.status for run in runs] == ["completed"] * 2
    assert entries(path) == [], "and no temporary file is left"


def test_where_nothing_can_be_written_nodes_run_uncached_with_one_warning(
    execute: Execute, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    dag = cached(DiskCache(tmp_path / "file" / "cache"))
    with pytest.warns(RuntimeWarning, match=r"'f' could not write to its cache's back") as warned:
        runs = [execute(dag, x=1) for _ in range(2)]
    assert len(warned) == 1
    assert [run.value for run in runs] == [[1, 1]] * 2


FULL = """
import resource, signal, sys, warnings
from fast_dag import DAG
from fast_dag.cache import DiskCache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
dag = DAG("d")
dag.cached_node(name="f", backend=DiskCache(sys.argv[1]))(lambda x: "a" * x)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    print([len(dag.run(x=x)) for x in (100, 50_000, 50_000, 100)], len(warned))
print(dag.context.metrics["cache_hits"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of POSIX stands for a full disk")
def test_what_finds_no_room_on_the_disk_is_not_kept_with_one_warning(
    tmp_path: Path, path: Path
) -> None:
    assert run_script(tmp_path, FULL, path) == "[100, 50000, 50000, 100] 1\n1\n"
    assert len(entries(path)) == 1


# The bound.


def test_the_least_recently_used_entries_make_room(path: Path) -> None:
    cache = DiskCache(path, max_bytes=10_000)
    dag = cached(cache, lambda x: b"a" * 2000)
    for x in (1, 2, 3, 4):
        dag.run(x=x)
    dag.run(x=1)
    dag.run(x=5)
    assert sum(each.stat().st_size for each in entries(path)) <= 10_000
    assert [hits(dag, x=x) for x in (5, 1)] == [1, 1]
    assert hits(dag, x=2) == 0


def test_a_bound_that_is_set_later_takes_effect_by_and_by(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_AT_ONCE", 10)
    unbounded = DiskCache(path)
    for number in range(40):
        unbounded.set(f"a:{number}", (b"a" * 1000, None))
    cache = DiskCache(path, max_bytes=10_000)
    left = []
    for number in range(5):
        cache.set(f"b:{number}", (b"a", None))
        left.append(len(entries(path)))
    assert left[0] == 31, "no more at once"
    assert sum(each.stat().st_size for each in entries(path)) <= 10_000
    assert [cache.get(f"b:{number}") for number in range(5)] == [(b"a", None)] * 5


def test_an_entry_that_exceeds_the_bound_alone_is_not_kept(path: Path) -> None:
    dag = cached(DiskCache(path, max_bytes=1000), lambda x: b"a" * x)
    dag.run(x=1)
    with pytest.warns(RuntimeWarning, match="exceeds max_bytes=1000"):
        dag.run(x=2000)
    assert hits(dag, x=1) == 1, "nothing had to go for it"


@pytest.mark.stress
def test_threads_that_share_a_small_directory_get_right_values(path: Path) -> None:
    dags = [cached(DiskCache(path, max_bytes=4000), lambda x: [x] * 100) for _ in range(4)]

    def work(number: int) -> None:
        for step in range(60):
            x = (number + step) % 9
            assert dags[number].run(x=x) == [x] * 100

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sum(each.stat().st_size for each in entries(path)) <= 8000


# Other processes.


def run_script(directory: Path, source: str, *args: Any, **environment: str) -> str:
    (directory / "script.py").write_text(source, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "script.py", *map(str, args)],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
    ).stdout


def test_a_process_that_is_killed_while_it_writes_damages_nothing(
    tmp_path: Path, path: Path
) -> None:
    source = (
        "import sys\n"
        "from fast_dag.cache import DiskCache\n"
        "cache = DiskCache(sys.argv[1])\n"
        "print(flush=True)\n"
        "while True:\n"
        "    cache.set('a:b', (b'a' * 10_000_000, None))\n"
    )
    (tmp_path / "script.py").write_text(source)
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "script.py", str(path)], cwd=tmp_path, stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        with writer.stdout:
            writer.stdout.readline()
            while not path.exists() or not entries(path):
                assert writer.poll() is None
            writer.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
            writer.wait(LONG)
        assert DiskCache(path).get("a:b") in (None, (b"a" * 10_000_000, None))


def test_what_dead_writers_left_is_deleted_after_an_hour(path: Path) -> None:
    cached(DiskCache(path)).run(x=1)
    old, new = path / "tmp" / "old", path / "tmp" / "new"
    for file in (old, new):
        file.write_bytes(b"half of an ent")
    os.utime(old, (1, 1))
    cached(DiskCache(path)).run(x=2)
    assert (old.exists(), new.exists()) == (False, True)


TWO = """
import sys
from fast_dag import DAG
from fast_dag.cache import DiskCache
dag = DAG("d")
dag.cached_node(name="f", backend=DiskCache(sys.argv[1], max_bytes=200_000))(lambda x: [x] * 1000)
print(flush=True)
sys.stdin.readline()
for step in range(200):
    x = step % 40
    assert dag.run(x=x) == [x] * 1000
print(dag.context.metrics["cache_hits"] + dag.context.metrics["cache_misses"])
"""


def test_processes_that_compute_the_same_keys_at_once_get_right_values(
    tmp_path: Path, path: Path
) -> None:
    (tmp_path / "script.py").write_text(TWO)
    both = [
        subprocess.Popen(
            [sys.executable, "script.py", str(path)],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for each in both:
        assert each.stdout is not None
        each.stdout.readline()
    assert [each.communicate("go\n", LONG)[0] for each in both] == ["1\n", "1\n"]
    assert {each.returncode for each in both} == {0}


FORKS = """
import os, sys
from fast_dag import DAG
from fast_dag.cache import DiskCache
dag = DAG("d")
dag.cached_node(name="f", backend=DiskCache(sys.argv[1], max_bytes=10_000))(lambda x: [x])
dag.run(x=1)
child = os.fork()
for x in range(50):
    dag.run(x=x)
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(dag.execute(x=49).metrics["cache_hits"])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_goes_on_with_it(tmp_path: Path, path: Path) -> None:
    assert run_script(tmp_path, FORKS, path) == "1\n"


SCRIPT = """
import dataclasses, enum, sys
from fast_dag import DAG
from fast_dag.cache import DiskCache

class Mode(enum.Enum):
    FAST = 1

@dataclasses.dataclass
class Point:
    x: int

class Hashed:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return type(other) is Hashed and other.x == self.x
    def __hash__(self): return 1

RATE = 3
dag = DAG("etl")

@dag.cached_node(backend=DiskCache(PATH))
def point(mode=Mode.FAST, near=Point(1), other=Hashed(2)):
    print("computed", file=sys.stderr)
    return Point(scaled(2))

def scaled(x):
    return RATE * x

@dag.node
def out(point):
    return point.x

point >> out
inputs = {"mode": Mode.FAST, "near": Point(1), "other": Hashed(2)}
if __name__ == "__main__":
    print(dag.run(inputs), dag.context.metrics["cache_hits"])
"""
IMPORTED = "import etl; print(etl.dag.run(etl.inputs), etl.dag.context.metrics['cache_hits'])"


def test_a_script_has_the_same_keys_however_it_was_started(tmp_path: Path, path: Path) -> None:
    (tmp_path / "etl.py").write_text(SCRIPT.replace("PATH", repr(str(path))))
    (tmp_path / "elsewhere").mkdir()
    ways = [
        ("etl.py", tmp_path),
        ("etl.py", tmp_path),
        ("-m etl", tmp_path),
        ("../etl.py", tmp_path / "elsewhere"),
    ]
    commands = [([sys.executable, *words.split()], where) for words, where in ways]
    commands.append(([sys.executable, "-c", IMPORTED], tmp_path))
    told = [
        subprocess.run(
            command, cwd=where, capture_output=True, text=True, check=True, timeout=LONG
        ).stdout
        for command, where in commands
    ]
    assert told == ["6 0\n", "6 1\n", "6 1\n", "6 1\n", "6 1\n"]


@pytest.mark.needs("click")
def test_a_script_that_fast_dag_starts_has_the_keys_of_one_that_is_run(
    tmp_path: Path, path: Path
) -> None:
    source = SCRIPT.replace("PATH", repr(str(path))).replace("dag.run(inputs)", "dag.run()")
    (tmp_path / "etl.py").write_text(source)

    def computed(*words: str) -> bool:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=LONG,
        )
        assert "6" in done.stdout
        return "computed" in done.stderr

    assert computed("etl.py")
    assert not computed("-m", "fast_dag", "run", "etl.py")
    assert not computed("-m", "fast_dag", "run", "etl:dag")


def test_other_encodings_of_the_system_change_nothing(tmp_path: Path, path: Path) -> None:
    source = (
        "import sys\n"
        "from fast_dag import DAG\n"
        "from fast_dag.cache import DiskCache\n"
        "dag = DAG('d')\n"
        "dag.cached_node(name='größe', backend=DiskCache(sys.argv[1]))(lambda x: 'ß' + x)\n"
        "dag.run(x='ü')\n"
        "print(dag.context.metrics['cache_hits'])\n"
    )
    assert run_script(tmp_path, source, path) == "0\n"
    assert run_script(tmp_path, source, path, LC_ALL="C", PYTHONUTF8="0") == "1\n"


# At the same time.


def test_two_graphs_that_miss_one_key_at_once_compute_it_once(path: Path) -> None:
    calls: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    def slow(x: int) -> int:
        calls.append(x)
        started.set()
        assert go_on.wait(LONG)
        return x

    one, other = cached(DiskCache(path), slow, version=1), cached(DiskCache(path), slow, version=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.run, x=1)
        assert started.wait(LONG)
        second = pool.submit(other.run, x=1)
        go_on.set()
        assert [first.result(LONG), second.result(LONG)] == [1, 1]
    assert calls == [1]


class Counted(DiskCache):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads = 0

    def get(self, key: str, /) -> Any:
        self.reads += 1
        return super().get(key)


def test_a_hit_reads_the_directory_once(execute: Execute, path: Path) -> None:
    execute(cached(DiskCache(path)), x=1)
    cache = Counted(path)
    dag = cached(cache)
    for count in (1, 2, 3):
        assert execute(dag, x=1).metrics["cache_hits"] == 1
        assert cache.reads == count


def test_nothing_warns_where_all_is_well(execute: Execute, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            execute(cached(DiskCache(path, max_bytes=10**6)), x={"a": [1.5, None, "ü"]})


# Codecs.


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was loaded",)


def test_codec_stores_results_of_exact_types(path: Path) -> None:
    dag = cached(DiskCache(path, codec=Plain()), lambda x: {"rows": ({x}, b"x")})
    assert [hits(dag, x=1) for _ in range(2)] == [0, 1]
    assert dag.run(x=1) == {"rows": ({1}, b"x")}


def test_codec_reads_nothing_of_another_codec(path: Path) -> None:
    DiskCache(path).set("a:b", 1)
    DiskCache(path).set("a:c", Bomb())
    DiskCache(path, codec=Plain()).set("a:d", 1)
    plain, keyed = DiskCache(path, codec=Plain()), DiskCache(path, codec=Pickle(b"k" * 16))
    assert [plain.get(key) for key in ("a:b", "a:c", "a:d")] == [None, None, 1]
    assert [keyed.get(key) for key in ("a:b", "a:c", "a:d")] == [None, None, None]
    assert DiskCache(path).get("a:d") is None


def test_entry_that_was_moved_counts_as_missing(path: Path) -> None:
    cache = DiskCache(path, codec=Pickle(b"k" * 16))
    cache.set("a:b", 1)
    cache.set("a:c", 2)
    one, other = entries(path)
    one.write_bytes(other.read_bytes())
    assert sorted(str(cache.get(key)) for key in ("a:b", "a:c")) in (["1", "None"], ["2", "None"])


def test_what_the_codec_does_not_keep_is_computed_again(path: Path) -> None:
    dag = cached(DiskCache(path, codec=Plain()), lambda x: {"rows": [object()]})
    with pytest.warns(RuntimeWarning, match=r"what is at \['rows'\]\[0\] in the value cannot be"):
        assert hits(dag, x=1) == 0
    assert hits(dag, x=1) == 0


def test_codec_goes_with_the_cache_into_other_processes(path: Path) -> None:
    cache = pickle.loads(pickle.dumps(DiskCache(path, codec=Plain(allow=["shop:Order"]))))
    assert repr(cache) == f"DiskCache({str(path)!r}, codec=Plain(allow=['shop:Order']))"
    cache.set("a:b", (1,))
    assert DiskCache(path, codec=Plain()).get("a:b") == (1,)


def test_codec_is_checked(path: Path) -> None:
    with pytest.raises(ValueError, match="codec is an object"):
        DiskCache(path, codec="plain")  # type: ignore[arg-type]
