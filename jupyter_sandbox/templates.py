"""Template files: TOML, one template a file, named like the file. Built-in ones come with the package.

A file holds `description`, `preload`, `environment`, `min_idle`, `max_total`, `start`, tables `[limits]` and
`[network]` and tables `[[shares]]`; see `specs` for what each means and its default. Operators own these files: nothing
a client sends can change one.
"""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import InvalidRequestError, TemplateError, UnknownTemplateError
from jupyter_sandbox.guards import ids, networks, processes
from jupyter_sandbox.guards.paths import HOMES
from jupyter_sandbox.specs import EgressRule, KernelStart, Limits, Policy, Share, Template, Transport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

BUILT_IN: Final = {"python": Template(name="python", description="Python with the packages of this environment")}

MAX_EGRESS_RULES: Final = 64
"""Of one template; each is two rules of the host's packet filter for each worker."""

_SIMPLE: Final[dict[str, type]] = {"description": str, "min_idle": int, "max_total": int}


def load(directories: Iterable[Path]) -> dict[str, Template]:
    """Return all templates by name; later directories win. Raises TemplateError that names file and key."""
    templates = dict(BUILT_IN)
    for directory in directories:
        for file in sorted(directory.glob("*.toml")):
            templates[file.stem] = parse(file.stem, _text(file), str(file))
    return templates


def find(templates: Mapping[str, Template], name: str) -> Template:
    """Return the template called `name`; raises UnknownTemplateError that lists the known ones."""
    template = templates.get(ids.template_name(name))
    if template is None:
        raise UnknownTemplateError(f"no template {name!r}; there are: {', '.join(sorted(templates))}")
    return template


def parse(name: str, text: str, origin: str) -> Template:
    """Return the template that `text` describes; raises TemplateError."""
    try:
        values = tomllib.loads(text)
        template = Template(
            name=ids.template_name(name), limits=_limits(_typed(values.pop("limits", {}), dict, "limits"))
        )
        template = replace(
            template,
            preload=tuple(_texts(values.pop("preload", []), "preload")),
            environment=tuple(sorted(_environment(values.pop("environment", {})).items())),
            shares=tuple(
                _share(_typed(share, dict, "shares")) for share in _typed(values.pop("shares", []), list, "shares")
            ),
            policy=_policy(_typed(values.pop("network", {}), dict, "network")),
            start=_start(values.pop("start", KernelStart.FORK)),
        )
        for key, value in values.items():
            if key not in _SIMPLE:
                raise InvalidRequestError(f"unknown key {key!r}")
            template = replace(template, **{key: _typed(value, _SIMPLE[key], key)})
    except (tomllib.TOMLDecodeError, InvalidRequestError) as error:
        raise TemplateError(f"template {origin}: {error}") from error
    if template.min_idle < 0 or template.max_total < 1:
        raise TemplateError(f"template {origin}: min_idle must be at least 0 and max_total at least 1")
    return template


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"template {file}: {error}") from error


def _environment(values: object) -> dict[str, str]:
    table = _typed(values, dict, "environment")
    return processes.environment({name: _typed(text, str, f"environment.{name}") for name, text in table.items()})


def _limits(values: Mapping[str, Any]) -> Limits:
    kinds = {field.name: float if field.name == "cpus" else int for field in fields(Limits)}
    for key, value in values.items():
        if key not in kinds:
            raise InvalidRequestError(f"unknown key limits.{key}; known: {', '.join(kinds)}")
        if not 0 < _typed(value, kinds[key], f"limits.{key}") < 1 << 32:
            raise InvalidRequestError(f"limits.{key} must be positive")
    return Limits(**values)


def _share(values: Mapping[str, Any]) -> Share:
    unknown = set(values) - {"source", "target", "writable"}
    if unknown:
        raise InvalidRequestError(f"unknown keys in shares: {sorted(unknown)}")
    source, target = (_typed(values.get(key), str, f"shares.{key}") for key in ("source", "target"))
    if not source.startswith("/") or processes.working_directory(target) != target or target.startswith(HOMES):
        raise InvalidRequestError("shares.source must be an absolute path, shares.target one below /workspace or /tmp")
    return Share(source=source, target=target, writable=_typed(values.get("writable", False), bool, "shares.writable"))


def _policy(values: Mapping[str, Any]) -> Policy:
    unknown = set(values) - {"egress"}
    if unknown:
        raise InvalidRequestError(f"unknown keys in network: {sorted(unknown)}")
    rules = _typed(values.get("egress", []), list, "network.egress")
    if len(rules) > MAX_EGRESS_RULES:
        raise InvalidRequestError(f"network.egress has {len(rules)} rules; at most {MAX_EGRESS_RULES} are accepted")
    return Policy(egress=tuple(_egress_rule(rule, f"network.egress[{index}]") for index, rule in enumerate(rules)))


def _egress_rule(value: object, key: str) -> EgressRule:
    values = _typed(value, dict, key)
    unknown = set(values) - {"to", "port", "protocol"}
    if unknown or not {"to", "port"} <= set(values):
        raise InvalidRequestError(f"{key} must hold `to` and `port` and may hold `protocol`, nothing else")
    port = values["port"]
    try:
        target = networks.target(_typed(values["to"], str, "to"))
        first, last = networks.ports(port if isinstance(port, str) else _typed(port, int, "port"))
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{key}: {error}") from error
    protocol = values.get("protocol", Transport.TCP)
    if protocol not in list(Transport):
        raise InvalidRequestError(f"{key}.protocol must be one of {', '.join(Transport)}")
    return EgressRule(to=target, first_port=first, last_port=last, protocol=Transport(protocol))


def _start(value: object) -> KernelStart:
    if value not in list(KernelStart):
        raise InvalidRequestError(f"start must be one of {', '.join(KernelStart)}")
    return KernelStart(str(value))


def _texts(value: object, key: str) -> list[str]:
    if not isinstance(value, list):
        raise InvalidRequestError(f"{key} must be a list of texts")
    return [_typed(item, str, key) for item in value]


def _typed(value: Any, kind: type, key: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidRequestError(f"{key} must be of type {kind.__name__}")
    return value
