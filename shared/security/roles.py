"""The roles of a clinic: the policy's section `access`, as SMART scopes. Pure.

`ROLES_TABLE` in docs/security.md is `as_table` of it; a test keeps them the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from shared.fhir.cited import Cited
from shared.fhir.outcome import BadRequest
from shared.security.scopes import OPERATE, ScopeRefused, parse_scope

USER: Final = "{user}"

TREATMENT: Final = "TREAT"
"""Of v3-ActReason: what somebody outside asks for, where nothing else is said."""


class Role(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one role may.

    Attributes:
        title: for people.
        scopes: with ``{user}`` where the user's own resource is to stand.
        needs_user: whether a token of this role has to say who its user is.
        disclosure: of somebody outside of the clinic, what of patients he may know: ``by-consent`` what their consents
            permit, ``unless-denied`` what they do not deny. None: he is of the clinic, and consents do not bind him.
        purpose: of such a one, what he asks for: a code of v3-ActReason.

    """

    title: str
    scopes: tuple[str, ...]
    needs_user: bool = False
    disclosure: Literal["by-consent", "unless-denied"] | None = None
    purpose: str = TREATMENT


Roles: TypeAlias = Mapping[str, Role]

AccessPolicy = dict[str, Role]
"""The form of the section `access`."""


def scopes_of(roles: Roles, name: str, user: str | None) -> str:
    """Return the scopes of a role for a user (``Practitioner/<id>``), as they stand in a token.

    Raises:
        BadRequest: there is no such role, or it needs a user.

    """
    role = roles.get(name)
    if role is None:
        raise BadRequest(f"There is no role '{name[:64]}'. There are: {', '.join(sorted(roles))}.", code="value")
    if role.needs_user and user is None:
        raise BadRequest(f"A token of the role {name} has to say whose it is: give the user, Type/id.", code="required")
    return " ".join(scope.replace(USER, user or "") for scope in role.scopes)


def require_understood(roles: Roles) -> None:
    """Pass roles whose every scope means something here, and is a role's.

    Raises:
        ScopeRefused: one is not.

    """
    for name, role in roles.items():
        for scope in role.scopes:
            if scope == OPERATE:
                raise ScopeRefused(
                    f"'{OPERATE}' of the role {name}, which is of a clinic: it opens what is of all clinics. Take it "
                    "out; who runs the installation has it"
                )
            parse_scope(scope.replace(USER, "Practitioner/1"))


def as_table(roles: Roles) -> str:
    """Return the roles as a table in Markdown."""
    lines = ["| role | who | scopes | of patients | source |", "| -- | -- | -- | -- | -- |"]
    for name, role in roles.items():
        scopes = ", ".join(f"`{scope}`" for scope in role.scopes)
        lines.append(f"| {name} | {role.title} | {scopes} | {role.disclosure or ''} | {role.source} |")
    return "\n".join(lines)
