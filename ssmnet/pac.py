"""The PAC file (proxy auto-config): JavaScript that tells a browser what to send to a proxy.

What the rules allow and a target leads to goes to the proxy, all else directly. No name is looked
up: names are the far end's. So, as for Rules, rules of names are about names alone and rules of
addresses about addresses. Rules of IPv6 addresses can't be told in a way that all browsers know:
what only they allow is not sent to the proxy, what they deny is, and the proxy refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network

from .rules import Pattern, Rules

# Old engines run it, too: no let, no arrow functions, no JSON. A rule is [glob, address, mask,
# first port, last port]; isInNet must only get addresses, since it looks up names.
_TEMPLATE = """\
var deny = %s;
var allow = %s;
var routes = %s;
var proxies = %s;

function fits(rules, host, port) {
  var isIPv4 = /^[0-9.]+$/.test(host);
  var isName = !isIPv4 && host.indexOf(":") < 0;
  for (var i = 0; i < rules.length; i++) {
    var rule = rules[i];
    if (port < rule[3] || port > rule[4]) continue;
    if (rule[0] !== null) {
      if (isName && shExpMatch(host, rule[0])) return true;
    } else if (rule[1] === null || isIPv4 && isInNet(host, rule[1], rule[2])) {
      return true;
    }
  }
  return false;
}

function FindProxyForURL(url, host) {
  var parts = /^([a-z]+):\\/\\/(?:[^\\/?#]*@)?(?:\\[.*?\\]|[^:\\/?#]*)(?::([0-9]+))?/i.exec(url);
  var ports = {http: 80, ws: 80, https: 443, wss: 443, ftp: 21};
  var port = parts ? Number(parts[2] || ports[parts[1].toLowerCase()] || 0) : 0;
  host = host.toLowerCase().replace(/\\.$/, "").replace(/^\\[|\\]$/g, "");
  if (fits(deny, host, port) || !fits(allow, host, port) || !fits(routes, host, port)) {
    return "DIRECT";
  }
  return proxies;
}
"""

_ALL: list[object] = [None, None, None, 0, 65535]


def pac_file(rules: Rules, *, socks: str | None = None, http: str | None = None) -> str:
    """The text for a browser that reaches the proxies at ``socks`` and ``http``.

    Each is ``host:port``, with IPv6 in brackets, or None. SOCKS comes first: it takes every port
    and scheme. Where both are None nothing is sent to a proxy.
    """
    proxies = []
    if socks is not None:
        proxies += [f"SOCKS5 {socks}", f"SOCKS {socks}"]
    if http is not None:
        proxies.append(f"PROXY {http}")
    routes: list[list[object]] = [_ALL]
    if rules.default_target is None:
        routes = _rules(route.pattern for route in rules.routes)
    parts: Sequence[object] = (
        _rules(rules.deny),
        _rules(rules.allow) if rules.allow else [_ALL],
        routes,
        "; ".join(proxies) or "DIRECT",
    )
    return _TEMPLATE % tuple(json.dumps(part) for part in parts)


def _rules(patterns: Iterable[Pattern]) -> list[list[object]]:
    """The patterns as the script has them, without those of IPv6."""
    return [rule for pattern in patterns if (rule := _rule(pattern)) is not None]


def _rule(pattern: Pattern) -> list[object] | None:
    ports = [pattern.ports[0], pattern.ports[-1]]
    if pattern.network is None:
        return [pattern.glob, None, None, *ports]
    if not isinstance(pattern.network, IPv4Network):
        return None
    return [None, str(pattern.network.network_address), str(pattern.network.netmask), *ports]
