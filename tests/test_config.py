"""``ssmnet.toml``: what is read from it, where it is found, and what is told of a wrong one."""

import os
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ssmnet import config_file, config_schema
from ssmnet.bind import LOOPBACK
from ssmnet.config import MAX_NAMES, Config, Place, check_config, load_config
from ssmnet.config_command import EXAMPLE
from ssmnet.config_file import MAX_SIZE, find_config, key_lines, parse, read_text, user_file
from ssmnet.errors import UsageError
from ssmnet.forwards import AUTO_SESSIONS, Forward, Request

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no modes and owners")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ssmnet.toml"


def read(file: Path, text: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return load_config(file)


def problems(file: Path, text: str) -> list[str]:
    """What is told of a file, without its name."""
    file.write_text(text, encoding="utf-8")
    _, told = check_config(file)
    assert all(one.startswith(f"{file}, ") and "\n" not in one for one in told), told
    return [one.removeprefix(f"{file}, ") for one in told]


# --- what is read


def test_defaults_are_for_all_that_say_nothing_else(file: Path) -> None:
    config = read(
        file,
        """
        [defaults]
        profile = "dev"
        region = "eu-central-1"
        endpoint_url = "https://ssm.example"
        target = "i-1"
        reason = "work"
        keep_alive = "10m"
        max_session_age = "8h"
        resume_timeout = 90
        sessions = "auto"

        [forwards.db]
        remote = 5432

        [forwards.other]
        remote = 5433
        profile = "prod"
        target = "i-2"
        reason = "more work"
        keep_alive = "5m"
        sessions = 7

        [proxies.corp]
        socks = 0
        """,
    )
    db, other, corp = config.forwards["db"], config.forwards["other"], config.proxies["corp"]
    assert db.place == corp.place == Place("dev", "eu-central-1", "https://ssm.example")
    request = Request("i-1", "work", keep_alive=600, max_session_age=8 * 3600, resume_timeout=90)
    assert corp.request == db.request == replace(request, sessions=AUTO_SESSIONS)
    assert db.forward == Forward(5432, 5432)
    assert other.place == Place("prod", "eu-central-1", "https://ssm.example")
    own = {"target": "i-2", "reason": "more work", "sessions": 7, "keep_alive": 300}
    assert other.request == replace(request, **own)


def test_all_that_a_forward_has(file: Path) -> None:
    config = read(
        file,
        """
        [forwards."db.prod"]
        local = 15432
        bind = ["127.0.0.2", "::1"]
        host = "db.internal"
        remote = 5432
        target = "ecs:a_b_c"
        document = "Mine"
        parameters = { one = "1", two = ["2", "3"] }
        check = true
        max_restarts = 0
        """,
    )
    db = config.forward("db.prod")
    assert db.name == "db.prod"
    assert db.place == Place(None, None, None)
    assert db.forward == Forward(15432, 5432, "db.internal", ("127.0.0.2", "::1"))
    parameters = {"one": ("1",), "two": ("2", "3")}
    expected = Request("ecs:a_b_c", None, "Mine", parameters, True, max_restarts=0)
    assert db.request == expected


def test_all_that_a_proxy_has(file: Path) -> None:
    config = read(
        file,
        """
        [proxies.corp]
        socks = 1080
        http = 0
        bind = "*"
        allow = ["*.internal", "10.0.0.0/8:443"]
        deny = ["x.internal"]
        routes = ["*.prod.internal via i-a"]
        max_sessions = 20
        sessions = 3
        idle = "60s"
        user = "me"
        password_env = "MY_PASSWORD"
        """,
    )
    corp = config.proxies["corp"]
    assert (corp.socks, corp.http, corp.bind) == (1080, 0, ("0.0.0.0", "::"))
    assert corp.allow == ("*.internal", "10.0.0.0/8:443")
    assert (corp.deny, corp.routes) == (("x.internal",), ("*.prod.internal via i-a",))
    assert (corp.max_sessions, corp.idle) == (20, 60)
    assert (corp.user, corp.password_env) == ("me", "MY_PASSWORD")
    assert corp.request == Request("", sessions=3)


def test_a_local_port_that_is_not_given_is_the_remote_one(file: Path) -> None:
    config = read(
        file, '[forwards]\na = {remote = 80}\nb = {remote = 80, local = 0}\nc = {document = "D"}'
    )
    assert [one.forward.local for one in config.forwards.values()] == [80, 0, 0]
    assert {one.forward.bind for one in config.forwards.values()} == {LOOPBACK}


def test_a_relative_socket_is_beside_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent / "home"))
    monkeypatch.setenv("USERPROFILE", str(file.parent / "home"))
    config = read(
        file,
        '[forwards]\na = {remote = 1, local = "./a.sock"}\nb = {remote = 1, local = "~/b.sock"}',
    )
    locals_ = [Path(str(one.forward.local)) for one in config.forwards.values()]
    assert locals_ == [file.parent / "a.sock", file.parent / "home" / "b.sock"]


def test_the_example_is_a_good_file_and_so_is_all_that_it_leaves_out(file: Path) -> None:
    config = read(file, EXAMPLE)
    assert list(config.forwards) == ["web", "db"]
    assert list(config.proxies) == ["corp"]

    def in_use(line: str) -> str:
        """The line, and what is left out by a # and a blank in front of a key or header."""
        bare = line.removeprefix("# ")
        is_code = " = " in bare.partition("#")[0] or bare.startswith("[")
        return bare if line.startswith("# ") and is_code else line

    everything = "\n".join(map(in_use, EXAMPLE.splitlines()))
    everything = everything.replace('bind = "127.0.0.1"', "# bind")
    config = read(file, everything)
    assert list(config.forwards) == ["web", "db", "cache.prod"]
    tables = tomllib.loads(everything)
    shown = {
        key for kind in ("forwards", "proxies") for one in tables[kind].values() for key in one
    }
    fields = {*config_schema.Forward.__struct_fields__, *config_schema.Proxy.__struct_fields__}
    assert fields - {"bind"} == (shown | tables["defaults"].keys()) - {"bind"}


# --- what is told of a wrong one

NUMBER = "a number from 1 to 200"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('remote = "five"', 'remote: expected a port from 1 to 65535, found "five"'),
        ("remote = 0", "remote: expected a port from 1 to 65535, found 0"),
        ("remote = 65536", "remote: expected a port from 1 to 65535, found 65536"),
        ("remote = 1.5", "remote: expected a port from 1 to 65535, found 1.5"),
        ("remote = true", "remote: expected a port from 1 to 65535, found true"),
        ("remote = [5]", "remote: expected a port from 1 to 65535, found [5]"),
        ("remote = 1979-05-27", 'remote: expected a port from 1 to 65535, found "1979-05-27'),
        ("remote = { x = 1 }", "remote: expected a port from 1 to 65535, found a table"),
        ("local = -1", "local: expected a port, 0 for a free one, or the path of a socket with a "),
        (
            'local = "x"',
            "local: expected a port, 0 for a free one, or the path of a socket with a ",
        ),
        ('bind = ""', "bind: expected an address to listen on, or a list of them, found "),
        ("bind = []", "bind: expected an address to listen on, or a list of them, found []"),
        ('bind = ["a b"]', "bind: expected an address to listen on, or a list of them, found "),
        ('host = "a/b"', "host: expected a host's name or address, found"),
        ('host = "a\\n"', "host: expected a host's name or address, found"),
        ('target = ""', "target: expected a line of text, found"),
        ('reason = "a\\nb"', "reason: expected a line of text, found"),
        ("sessions = 0", f'sessions: expected {NUMBER}, or "auto", found 0'),
        ("sessions = 201", f'sessions: expected {NUMBER}, or "auto", found 201'),
        ('sessions = "many"', f'sessions: expected {NUMBER}, or "auto", found "many"'),
        (
            'keep_alive = "0s"',
            'keep_alive: expected a time such as "90s", "15m" or "8h", found "0s"',
        ),
        ("keep_alive = -5", 'keep_alive: expected a time such as "90s", "15m" or "8h", found -5'),
        ("keep_alive = true", "keep_alive: expected a time such as"),
        ("check = 1", "check: expected true or false, found 1"),
        ("max_restarts = -1", "max_restarts: expected a number from 0, found -1"),
        ('region = "Paris"', "region: 'Paris' is not an AWS region; one looks like eu-west-1"),
        ('endpoint_url = "ftp://x"', "endpoint_url: an endpoint URL looks like https://host"),
        ('endpoint_url = "http://x.example"', "endpoint_url: endpoint 'http://x.example' must be"),
        ('local = "./a\\u0000"', "local: expected a port, 0 for a free one, or the path of a "),
        (
            'bind = ["127.0.0.1", "127.0.0.1"]',
            "bind: 127.0.0.1 and 127.0.0.1 can't both be listened on",
        ),
        (
            'bind = ["::1", "localhost", "127.0.0.1"]',
            "bind: localhost and 127.0.0.1 can't both be listened on",
        ),
        ('bind = ["*", "::1"]', "bind: :: and ::1 can't both be listened on"),
        (
            'document = "D"\nparameters = {a = 3, b = "x"}',
            "parameters.a: expected a text or a list of texts, found 3",
        ),
        (
            "parameters = {a = {}}",
            "parameters.a: expected a text or a list of texts, found a table",
        ),
        (
            "parameters = {a = ['b', 4]}",
            "parameters.a: expected a text or a list of texts, found [",
        ),
        ("parameters = 1", "parameters: expected a table of texts, or lists of them, found 1"),
        ('parameters = {a = "b"}', "parameters: parameters go with document"),
        ("sesions = 4", "sesions: unknown; is sessions meant?"),
        ("zzz = 4", "zzz: unknown; there are profile, region, "),
        ("x.y = 4", 'x: unknown; a name with a dot stands in quotes: [forwards."db.x"]'),
        ('local = "./a"\nbind = "::1"', "bind: a unix socket has no address to listen on"),
    ],
)
def test_a_wrong_value_is_told_with_its_line(file: Path, line: str, expected: str) -> None:
    before = "\n# a comment\n[forwards.db]\n" + ("remote = 5\n" if "remote" not in line else "")
    [told] = problems(file, before + line)
    number = (before + line).count("\n") + 1
    assert told.startswith(f"line {number}, forwards.db.{expected}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('password = "s3cret"', "password: a password does not stand here: password_env names"),
        ('password_env = "s3cret!"', "password_env: expected an environment variable's name"),
        ('password_env = "X"', "password_env: user is missing"),
        ('bind = ["localhost", "127.0.0.1"]', "bind: localhost and 127.0.0.1 can't both"),
        ('bind = "0.0.0.0"', "bind: others could use this proxy: it needs a user"),
        ('allow = "x"', "allow: expected a list of patterns such as"),
        ('allow = ["x", "x y"]', "allow: 'x y' is no pattern: "),
        ('deny = ["10.0.0.0/33"]', "deny: '10.0.0.0/33' is no pattern: "),
        ('routes = ["x to y"]', "routes: 'x to y' is no route"),
        ("routes = [5]", "routes: expected a list of routes such as"),
        ("max_sessions = 0", f"max_sessions: expected {NUMBER}, found 0"),
        ("remote = 5", "remote: unknown; "),
    ],
)
def test_a_wrong_value_of_a_proxy(file: Path, line: str, expected: str) -> None:
    [told] = problems(file, "[proxies.corp]\nsocks = 1080\n" + line)
    assert told.startswith(f"line 3, proxies.corp.{expected}")
    assert "s3cret" not in told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[forwards.db]", "line 1, forwards.db: remote is missing: the port to forward to"),
        ("[proxies.db]", "line 1, proxies.db: expected a port for socks, http or both"),
        ("[forward.db]\nremote=1", "line 1, forward: unknown; is forwards meant?"),
        ("\nforwards = 5", "line 2, forwards: expected tables such as [forwards.db]"),
        ("[forwards]\ndb = 5", "line 2, forwards.db: expected a table, found 5"),
        ("[[forwards.db]]\nremote = 5", "line 1, forwards.db: expected a table, found [{"),
        ("defaults = []", "line 1, defaults: expected a table, found []"),
        ("[defaults]\nlocal = 5", "line 2, defaults.local: unknown; "),
        ('[forwards."-x"]\nremote=1', "line 1, forwards.-x: expected a name of letters"),
        ('[forwards."a b"]\nremote=1', "line 1, forwards.a b: expected a name of letters"),
        ("forwards.db.remote = 0", "line 1, forwards.db.remote: expected a port"),
        (
            "[forwards.a]\nremote=1\n[proxies.a]\nsocks=2",
            "line 3, proxies.a: there is a forward named a already",
        ),
    ],
)
def test_a_wrong_table(file: Path, text: str, expected: str) -> None:
    told = problems(file, text)
    assert told[0].startswith(expected), told


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("", ""),
        ('bind = "127.0.0.1"', ""),
        ('bind = "0.0.0.0"', 'bind = "127.0.0.9"'),
        ('bind = "::"', 'bind = "::1"'),
        ('bind = "*"', ""),
        ('bind = "0:0::1"', 'bind = "::1"'),
        ('bind = "localhost"', 'bind = "127.0.0.1"'),
    ],
)
def test_one_port_for_two(file: Path, first: str, second: str) -> None:
    text = f"[forwards.a]\nremote = 80\n{first}\n[forwards.b]\nlocal = 80\nremote = 1\n{second}\n"
    assert problems(file, text) == ["line 4, forwards.b: listens on 80, and so does forwards.a"]


def test_one_port_for_a_forward_and_a_proxy(file: Path) -> None:
    told = problems(file, "[forwards.a]\nremote = 80\n[proxies.b]\nsocks = 80\nhttp = 80\n")
    assert told == [
        "line 4, proxies.b.socks: listens on 80, and so does forwards.a",
        "line 5, proxies.b.http: listens on 80, and so does forwards.a",
        "line 5, proxies.b.http: listens on 80, and so does proxies.b.socks",
    ]


def test_one_socket_for_two(file: Path) -> None:
    told = problems(
        file, '[forwards]\na = {remote = 1, local = "./s"}\nb = {remote = 2, local = "./s"}'
    )
    assert told == [f"line 3, forwards.b: listens on {file.parent / 's'}, and so does forwards.a"]


@posix
def test_one_socket_by_two_names(file: Path) -> None:
    (file.parent / "link").symlink_to(file.parent)
    for other in ("link/s", f"../{file.parent.name}/s", "x/../s"):
        told = problems(
            file,
            f'[forwards]\na = {{remote = 1, local = "./s"}}\nb = {{remote = 2, local = "{other}"}}',
        )
        assert told == [
            f"line 3, forwards.b: listens on {file.parent / 's'}, and so does forwards.a"
        ]


def test_ports_that_are_not_the_same_place(file: Path) -> None:
    text = "[forwards.{}]\nremote = 80\nlocal = {}\nbind = {}\n"
    places = [("a", 80, '"127.0.0.1"'), ("b", 80, '["127.0.0.2", "::1"]'), ("c", 0, '"127.0.0.1"')]
    everyone = [*places, ("d", 0, '"127.0.0.1"'), ("e", 81, '"0.0.0.0"'), ("f", 81, '"::"')]
    assert problems(file, "".join(text.format(*one) for one in everyone)) == []


def test_all_that_is_wrong_is_told_in_order(file: Path) -> None:
    text = "[forwards.b]\nremote = 0\n[forwards.a]\nremote = 0\nx = 1\n[defaults]\nsessions = 0\n"
    lines = [told.partition(":")[0] for told in problems(file, text)]
    assert lines == [
        "line 2, forwards.b.remote",
        "line 4, forwards.a.remote",
        "line 5, forwards.a.x",
        "line 7, defaults.sessions",
    ]
    with pytest.raises(UsageError, match=r"line 2, .*found 0 \(and 3 more: see ssmnet config"):
        load_config(file)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"[forwards.db\n", "line 1, column 13: Expected"),
        (b"a = 1\nb = \n", "line 2, column 5: Invalid value"),
        (b"a = 1\na = 2\n", "line 2, column 6: Cannot overwrite a value"),
        (b'a = "x', ": "),
        (b"a = 1\nb = '\xff'", "line 2: expected UTF-8 text"),
        (b"a = " + b"[" * 50_000, "too deep"),
        (b"a = " + b"1" * 5_000, "Exceeds the limit"),
        (b"#" * (MAX_SIZE + 1), "longer than 256 KiB"),
    ],
    ids=["header", "value", "twice", "text", "bytes", "deep", "number", "size"],
)
def test_what_is_no_toml(file: Path, data: bytes, expected: str) -> None:
    file.write_bytes(data)
    with pytest.raises(UsageError) as error:
        load_config(file)
    assert str(file) in str(error.value)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UsageError, match="cannot read"):
            load_config(path)


def test_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32":
        pytest.skip("there are no pipes in folders")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = "#" * 100_000 + "\n[forwards.db]\nremote = 5\n"
    with ThreadPoolExecutor(1) as thread:
        # Neither can be opened before the other, so this begins after the reader.
        writing = thread.submit(pipe.write_text, text)
        assert read_text(pipe) == text
        writing.result()
        writing = thread.submit(pipe.write_text, "")
        assert read_text(pipe) == ""
        writing.result()
    monkeypatch.setattr(config_file, "WRITER_TIMEOUT", 0.05)
    with pytest.raises(UsageError, match="nothing was written to it in 0.05 s"):
        read_text(pipe)


@posix
def test_a_folder_that_cannot_be_looked_into_has_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a name that is too long nothing can be known either, by root neither.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ("x" * 300)))
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_config() is None


def test_too_many_names(file: Path) -> None:
    text = "[forwards]\n" + "".join(f"n{i} = {{remote = {i + 1}}}\n" for i in range(MAX_NAMES + 1))
    assert problems(file, text) == [f"line 1, forwards: there are {MAX_NAMES + 1}: more than 1000"]


def test_a_mark_at_the_beginning_and_other_line_ends(file: Path) -> None:
    file.write_bytes("\ufeff[forwards.db]\r\n\r\nremote = 0\r\n".encode())
    _, [told] = check_config(file)
    assert ", line 3, forwards.db.remote: " in told


def test_names_that_are_not_there(file: Path) -> None:
    config = read(file, "[forwards.database]\nremote = 5\n[proxies.corp]\nsocks = 1")
    config.check_names(["database", "corp"])
    with pytest.raises(UsageError, match="has no 'databse'; is database meant"):
        config.check_names(["corp", "databse"])
    with pytest.raises(UsageError, match="has no 'x'; there are: corp, database"):
        config.check_names(["x"])
    with pytest.raises(UsageError, match="corp is a proxy"):
        config.forward("corp")


# --- lines


def test_where_keys_stand_whatever_is_between_them() -> None:
    text = '''# [forwards.no]
[defaults] # [no]
reason = """
[forwards.no]
x = 1
"""
target = "a # ] ["
[proxies.p]
allow = [
  "a", # ]
  "[b]",
  ['c'],
]
'quoted key' = \'\'\'
]\'\'\'
[forwards]
a.remote = 1
b = { remote = 2, x = [ { y = 1 } ] }
[forwards . "c.d"]
remote = 3
'''
    assert tomllib.loads(text)
    lines = key_lines(text)
    assert lines == {
        ("defaults",): 2,
        ("defaults", "reason"): 3,
        ("defaults", "target"): 7,
        ("proxies",): 8,
        ("proxies", "p"): 8,
        ("proxies", "p", "allow"): 9,
        ("proxies", "p", "quoted key"): 14,
        ("forwards",): 16,
        ("forwards", "a"): 17,
        ("forwards", "a", "remote"): 17,
        ("forwards", "b"): 18,
        ("forwards", "b", "remote"): 18,
        ("forwards", "b", "x"): 18,
        ("forwards", "b", "x", "y"): 18,
        ("forwards", "c.d"): 19,
        ("forwards", "c.d", "remote"): 20,
    }


WORDS = st.sampled_from(
    [
        "[forwards.db]\n",
        "[x]\n",
        "remote = 5\n",
        "a.b = 1\n",
        'c = """\n',
        "'''",
        '"',
        "\\",
        "[",
        "]",
    ]
    + [
        "{",
        "}",
        "#",
        "=",
        "\n",
        "\r\n",
        " ",
        "1",
        "[[t]]\n",
        "defaults",
        "\u2028",
        "\x00",
        "\ufeff",
    ]
)


@given(st.lists(WORDS, max_size=20).map("".join))
def test_any_text_is_a_file_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode())
    try:
        config, told = check_config(path)
    except UsageError:
        return
    assert config.path == path
    # Whatever stands in it is on some line of it.
    text = read_text(path)
    lines = key_lines(text)
    assert all((name,) in lines for name in parse(path, text)), lines
    assert all("\n" not in one for one in told)


# --- where it is looked for


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("APPDATA", str(home / ".config"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return home


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    return path


def test_the_nearest_file_and_then_the_user_s(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "project" / "src" / "deep"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert find_config() is None
    with pytest.raises(UsageError, match=r"there is no ssmnet.toml"):
        load_config()
    own = touch(home / ".config" / "ssmnet" / "ssmnet.toml")
    assert find_config() == own == user_file()
    in_home = touch(home / "ssmnet.toml")
    assert find_config() == in_home
    above = touch(home / "project" / "ssmnet.toml")
    assert find_config() == above
    assert find_config() == above
    here = touch(folder / "ssmnet.toml")
    assert find_config() == here


def test_the_search_ends_with_the_repository(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(home / "ssmnet.toml")
    (home / "project" / "src").mkdir(parents=True)
    (home / "project" / ".git").touch()  # as in a work tree
    monkeypatch.chdir(home / "project" / "src")
    assert find_config() is None
    inside = touch(home / "project" / "ssmnet.toml")
    assert find_config() == inside


def test_nothing_above_the_home_folder_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(home.parent / "ssmnet.toml")
    monkeypatch.chdir(home)
    assert find_config() is None
    assert (home.parent / "ssmnet.toml").is_file()


@posix
def test_where_the_user_says_that_such_files_are(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    assert user_file() == home / "xdg" / "ssmnet" / "ssmnet.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert user_file() == home / ".config" / "ssmnet" / "ssmnet.toml"


@posix
def test_a_file_that_everyone_can_write_is_not_used_unasked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    path = touch(home / "ssmnet.toml")
    path.chmod(0o664)  # as a umask of 002 makes it
    assert find_config() == path
    path.chmod(0o666)
    with pytest.raises(UsageError, match="can be written by everyone"):
        find_config()
    assert load_config(path).forwards == {}


@posix
def test_a_file_of_another_user_is_not_used_unasked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "win32" or os.geteuid() != 0:
        pytest.skip("NOT ROOT: only root can give a file to another user")
    monkeypatch.chdir(home)
    path = touch(home / "ssmnet.toml")
    os.chown(path, 12345, 12345)
    with pytest.raises(UsageError, match="belongs to another user"):
        find_config()
    assert load_config(path).forwards == {}
