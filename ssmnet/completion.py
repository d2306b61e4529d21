"""``ssmnet completion``: has shells complete what is typed.

A script tells the shell to run ``ssmnet`` with the words of the line and ``_SSMNET_COMPLETE`` set,
at each TAB. The answer is a line for each candidate: the word, a tab, and what it means. No network
is asked: that would take seconds, and credentials.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from .config_file import find_config, parse, read_text
from .errors import UsageError
from .output import write

# What a shell takes as it stands; nothing else is offered, so that nothing needs to be quoted.
_PLAIN = re.compile(r"[\w.:/@+-]+")

_BASH = r"""
_ssmnet() {
    local line=${COMP_LINE:0:COMP_POINT} words word typed value meaning
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[${#words[@]}-1]}
    typed=${word%"${word##*[:=]}"}  # bash takes what comes after these for a word of its own
    COMPREPLY=()
    while IFS=$'\t' read -r value meaning; do
        COMPREPLY+=("${value#"$typed"}")
    done < <(_SSMNET_COMPLETE=1 "${1/#\~\//$HOME/}" "${words[@]:1}" 2>/dev/null)
}
complete -o default -F _ssmnet ssmnet
"""
_ZSH = r"""
#compdef ssmnet
_ssmnet() {
    local -a answer described
    local line
    answer=("${(@f)$(
        _SSMNET_COMPLETE=1 ${~words[1]} "${(@Q)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null
    )}")
    for line in $answer; do
        described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    if (( $#described )); then
        _describe -V ssmnet described
    else
        _files
    fi
}
if [[ $funcstack[1] == _ssmnet ]]; then
    _ssmnet "$@"
else
    compdef _ssmnet ssmnet
fi
"""
_FISH = r"""
function __ssmnet_complete
    set -l words (commandline -opc)
    set -l answer (env _SSMNET_COMPLETE=1 $words (commandline -ct) 2>/dev/null)
    if test (count $answer) -gt 0
        printf '%s\n' $answer
    else
        __fish_complete_path (commandline -ct)
    end
end
complete --command ssmnet --no-files --keep-order --arguments '(__ssmnet_complete)'
"""


class Shell(Enum):
    """A shell that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_SCRIPTS = {Shell.BASH: _BASH, Shell.ZSH: _ZSH, Shell.FISH: _FISH}


def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell that is to read it.")],
) -> None:
    """Print what has a shell complete commands, options and names.

    \b
    eval "$(ssmnet completion bash)"        (in ~/.bashrc)
    eval "$(ssmnet completion zsh)"         (in ~/.zshrc, after compinit)
    ssmnet completion fish > ~/.config/fish/completions/ssmnet.fish

    Completed are the forwards and proxies of ssmnet.toml and its targets, and the profiles of the
    AWS CLI. Exit status: 0, or 2 for a usage error.
    """
    typer.echo(_SCRIPTS[shell].lstrip("\n"), nl=False)


def answer(app: typer.Typer) -> None:
    """Print the candidates for the last of the words on the command line, which may be empty."""
    *words, last = sys.argv[1:] or [""]
    found = list(candidates(typer.main.get_command(app), words, last))
    if found:
        write(sys.stdout, "\n".join(f"{word}\t{meaning}" for word, meaning in found))


def candidates(command: Any, words: Sequence[str], last: str) -> Iterator[tuple[str, str]]:
    """What ``last`` may become after ``words``, and what each means; nothing where that is free."""
    if "--" in words:
        return  # another program's
    line = _Line(command, words)
    start = ""
    option, equals, value = last.partition("=")
    if line.pending is None and equals and option.startswith("--"):
        line.pending, start, last = line.option(option), f"{option}=", value
    if line.pending is not None:
        found = line.values(line.pending)
    elif last.startswith("-"):
        found = line.options()
    else:
        found = line.arguments() if last else line.arguments() or line.options()
    for word, meaning in found:
        if word.startswith(last):
            yield start + word, meaning


class _Line:
    """What has been typed before the word in question."""

    def __init__(self, command: Any, words: Sequence[str]) -> None:
        self.command = command
        self.pending: Any = None  # the option whose value comes next
        self._given: list[Any] = []
        self._arguments: list[str] = []
        self._config: str | None = os.environ.get("SSMNET_CONFIG")
        for word in words:
            self._take(word)

    def _take(self, word: str) -> None:
        if self.pending is not None:
            self._take_value(self.pending, word)
            self.pending = None
            return
        name, equals, value = word.partition("=")
        if option := self.option(name):
            self._given.append(option)
            if equals:
                self._take_value(option, value)
            elif not option.is_flag:
                self.pending = option
        elif word in (commands := _commands(self.command)):
            self.command, self._given = commands[word], []
        elif not word.startswith("-"):
            self._arguments.append(word)

    def _take_value(self, option: Any, value: str) -> None:
        if option.name == "config":
            self._config = os.path.expanduser(value)

    def option(self, name: str) -> Any:
        """The option of that name, or None."""
        return next((one for one in self._all_options() if name in one.opts), None)

    def options(self) -> list[tuple[str, str]]:
        """Those that may still be given, by their long names."""
        return [
            (one.opts[-1], _short(one.help or ""))
            for one in self._all_options()
            if not one.hidden and (one.multiple or one not in self._given)
        ]

    def arguments(self) -> list[tuple[str, str]]:
        """Commands of a group, or what the next argument may be."""
        if commands := _commands(self.command):
            return [
                (name, _short(one.help or "")) for name, one in commands.items() if not one.hidden
            ]
        arguments = [one for one in self.command.params if one.param_type_name == "argument"]
        at = len(self._arguments)
        if at >= len(arguments) and not (arguments and arguments[-1].nargs == -1):
            return []
        found = self.values(arguments[min(at, len(arguments) - 1)])
        return [one for one in found if one[0] not in self._arguments]

    def values(self, parameter: Any) -> list[tuple[str, str]]:
        """What an option or an argument may be; empty where it may be anything."""
        items = parameter.shell_complete(typer.Context(self.command), "")
        if choices := [item.value for item in items if item.type == "plain"]:
            return [(word, "") for word in choices]
        known: dict[str, Callable[[], Iterable[tuple[str, str]]]] = {
            "names": lambda: _names(self._config, with_proxies=self.command.name != "run"),
            "target": lambda: _targets(self._config),
            "profile": _profiles,
        }
        found = known[parameter.name]() if parameter.name in known else ()
        return [(word, meaning) for word, meaning in found if _PLAIN.fullmatch(word)]

    def _all_options(self) -> list[Any]:
        context = typer.Context(self.command)
        parameters = self.command.get_params(context)
        return [one for one in parameters if one.param_type_name == "option"]


def _commands(command: Any) -> dict[str, Any]:
    return getattr(command, "commands", {})


def _short(text: str) -> str:
    """The first sentence, on a line."""
    return re.split(r"\n\n|(?<=[a-z])[.;:] ", text, maxsplit=1)[0].replace("\n", " ").rstrip(".")


def _names(config: str | None, *, with_proxies: bool) -> Iterator[tuple[str, str]]:
    tables = _tables(config)
    for name, one in _under(tables, "forwards"):
        yield name, f"{one.get('host', 'the target')}:{one.get('remote', '')}"
    if with_proxies:
        for name, _ in _under(tables, "proxies"):
            yield name, "proxy"


def _targets(config: str | None) -> Iterator[tuple[str, str]]:
    tables = _tables(config)
    found = {}
    for kind in ("forwards", "proxies"):
        found.update({str(one.get("target", "")): name for name, one in _under(tables, kind)})
    defaults = tables.get("defaults")
    if isinstance(defaults, dict):
        found[str(defaults.get("target", ""))] = "the default of ssmnet.toml"
    found.setdefault("loopback", "a far end on this machine")
    yield from found.items()


def _under(tables: dict[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    group = tables.get(kind)
    if isinstance(group, dict):
        yield from ((name, one) for name, one in group.items() if isinstance(one, dict))


def _tables(config: str | None) -> dict[str, Any]:
    """What is in the file, whether it is valid or not; nothing if it can't be read."""
    try:
        path = Path(config) if config else find_config()
        # Not a pipe, which could be read only once.
        return parse(path, read_text(path)) if path is not None and path.is_file() else {}
    except (UsageError, OSError):
        return {}


def _profiles() -> Iterator[tuple[str, str]]:
    """Those of the AWS CLI's files."""
    folder = Path.home() / ".aws"
    config = os.environ.get("AWS_CONFIG_FILE") or folder / "config"
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or folder / "credentials"
    names = [
        *re.findall(
            r"^\[(?=default\]|profile\s)(?:profile\s+)?([^\]]+?)\s*\]", _read(config), re.MULTILINE
        ),
        *re.findall(r"^\[\s*([^\]]+?)\s*\]", _read(credentials), re.MULTILINE),
    ]
    return ((name.strip("\"'"), "") for name in dict.fromkeys(names))


def _read(path: str | Path) -> str:
    try:
        return Path(path).expanduser().read_text("utf-8", errors="replace")
    except OSError:
        return ""
