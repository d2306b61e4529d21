"""The PAC file, run by a real JavaScript engine with the helpers that browsers give it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ssmnet.pac import pac_file
from ssmnet.rules import Rules

NODE = shutil.which("node")

# What browsers give: see Mozilla's "Proxy Auto-Configuration (PAC) file". A look-up is an error.
HELPERS = r"""
function shExpMatch(text, glob) {
  var regexp = glob.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  return new RegExp("^" + regexp + "$").test(text);
}
function number(address) {
  if (!/^\d+\.\d+\.\d+\.\d+$/.test(address)) throw new Error("looked up: " + address);
  return address.split(".").reduce(function (sum, part) { return sum * 256 + Number(part); }, 0);
}
function isInNet(host, net, mask) {
  return (number(host) & number(mask)) === (number(net) & number(mask));
}
["dnsResolve", "isResolvable", "myIpAddress", "dnsDomainIs"].forEach(function (name) {
  globalThis[name] = function () { throw new Error("looked up by " + name); };
});
"""
ASK = """
console.log(JSON.stringify(%s.map(function (one) { return FindProxyForURL(one[0], one[1]); })));
"""
PROXY = "SOCKS5 127.0.0.1:1080; SOCKS 127.0.0.1:1080; PROXY 127.0.0.1:8080"


def ask(rules: Rules, *urls: str, tmp_path: Path) -> list[bool]:
    """Which of the URLs go to the proxy."""
    if NODE is None:
        pytest.skip("there is no node here to run the PAC file: it is NOT TESTED")
    text = pac_file(rules, socks="127.0.0.1:1080", http="127.0.0.1:8080")
    asked = [(url, re.sub(r"^\w+://(?:.*@)?(\[.*\]|[^:/]*).*$", r"\1", url)) for url in urls]
    script = tmp_path / "pac.js"
    script.write_text(HELPERS + text + ASK % json.dumps(asked))
    done = subprocess.run([NODE, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert set(answers) <= {PROXY, "DIRECT"}
    return [answer == PROXY for answer in answers]


def test_what_is_allowed_goes_to_the_proxy_and_the_rest_directly(tmp_path: Path) -> None:
    rules = Rules(
        allow=["*.internal", "db?.x:5432-5439", "10.1.0.0/16", "192.0.2.7:443", "exact.name"],
        deny=["secret.internal", "10.1.9.0/24", "*:22"],
        default_target="i-a",
    )
    expected = {
        "http://web.internal/": True,
        "http://WEB.Internal./a?b=c": True,
        "https://a.b.internal/": True,
        "wss://a.internal/": True,
        "http://internal/": False,
        "http://secret.internal/": False,
        "http://web.internal:22/": False,
        "http://db1.x:5432/": True,
        "http://db1.x:5439/": True,
        "http://db1.x:5440/": False,
        "http://db1.x/": False,
        "http://db12.x:5432/": False,
        "http://10.1.2.3/": True,
        "http://10.1.9.3/": False,
        "http://10.2.2.3/": False,
        "https://192.0.2.7/": True,
        "http://192.0.2.7/": False,
        "http://192.0.2.7:443/": True,
        "https://user:443@exact.name:8443/": True,
        "http://notexact.name/": False,
        "http://exactXname/": False,
        "http://[fd00::1]/": False,
        "http://example.com/": False,
    }
    assert ask(rules, *expected, tmp_path=tmp_path) == list(expected.values())


def test_without_allow_all_goes_to_the_proxy_but_what_is_denied(tmp_path: Path) -> None:
    rules = Rules(deny=["*.public", "127.0.0.0/8"], default_target="i-a")
    expected = {
        "http://a.private/": True,
        "http://10.0.0.1/": True,
        "http://[fd00::1]:8080/": True,
        "http://a.public/": False,
        "http://127.0.0.1/": False,
    }
    assert ask(rules, *expected, tmp_path=tmp_path) == list(expected.values())


def test_without_a_default_target_only_what_has_a_route_goes_to_the_proxy(tmp_path: Path) -> None:
    rules = Rules(deny=["db.a"], routes=["*.a via i-a", "10.0.0.0/8:80 via i-b"])
    expected = {
        "http://web.a/": True,
        "http://db.a/": False,
        "http://10.1.1.1/": True,
        "https://10.1.1.1/": False,
        "http://b/": False,
    }
    assert ask(rules, *expected, tmp_path=tmp_path) == list(expected.values())


def test_rules_of_ipv6_are_left_to_the_proxy(tmp_path: Path) -> None:
    only_ipv6 = Rules(allow=["fd00::/8"], default_target="i-a")
    assert ask(only_ipv6, "http://[fd00::1]/", "http://a/", tmp_path=tmp_path) == [False, False]
    denied = Rules(deny=["fd00::/8"], default_target="i-a")
    assert ask(denied, "http://[fd00::1]/", tmp_path=tmp_path) == [True]


@pytest.mark.parametrize(
    ("socks", "http", "expected"),
    [
        ("[::1]:1080", None, "SOCKS5 [::1]:1080; SOCKS [::1]:1080"),
        (None, "127.0.0.1:8080", "PROXY 127.0.0.1:8080"),
        (None, None, "DIRECT"),
        ('"; evil(); "\n', None, 'SOCKS5 "; evil(); "\n; SOCKS "; evil(); "\n'),
    ],
)
def test_strings_are_quoted(socks: str | None, http: str | None, expected: str) -> None:
    text = pac_file(Rules(default_target="i-a"), socks=socks, http=http)
    assert f"\nvar proxies = {json.dumps(expected)};\n" in text


def test_no_name_is_looked_up() -> None:
    text = pac_file(Rules(default_target="i-a"))
    assert not re.search(r"dnsResolve|isResolvable|isInNetEx|myIpAddress|dnsDomain", text)
