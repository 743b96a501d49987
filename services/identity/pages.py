"""The pages that people see: logging in, letting an app in, their account, what is wrong. HTML without a script.

Everything that is put in is escaped; the style is the only one that the Content-Security-Policy lets apply. Labels, a
heading, errors that are read out, no meaning by colour alone (WCAG 2.2, level AA).
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import HTMLResponse

STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 1.0625rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 32rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
label { display: block; margin: 1rem 0 .25rem; font-weight: 600; }
input[type=text], input[type=password] { box-sizing: border-box; font: inherit; padding: .5rem; width: 100%; }
fieldset { border: 1px solid GrayText; margin: 1rem 0; padding: .5rem 1rem; }
fieldset label { font-weight: 400; margin: .5rem 0; }
button { font: inherit; margin: 1rem .75rem 0 0; padding: .5rem 1.25rem; }
:focus-visible { outline: 3px solid Highlight; outline-offset: 2px; }
[role=alert] { border-left: .375rem solid; font-weight: 600; padding: .5rem 1rem; }
.small { font-size: .9375rem; }
"""
_STYLE_HASH: Final = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_POLICY: Final = (
    "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'{to}; frame-ancestors 'none'; base-uri 'none'"
)


def page(title: str, body: str, *, status: int = 200, to: str | None = None) -> HTMLResponse:
    """Return a page; `to`: a redirect URI that its form may lead to in the end."""
    text = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )
    headers = {
        "Content-Security-Policy": _POLICY.format(style=_STYLE_HASH, to="" if to is None else f" {_origin(to)}"),
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }
    return HTMLResponse(text, status_code=status, headers=headers)


def login(app: str, flow: str, *, name: str = "", wrong: str | None = None, status: int = 200) -> HTMLResponse:
    """Return the page on which somebody logs in for an app."""
    return page(
        "Sign in",
        f"""{_alert(wrong)}
<p><strong>{escape(app)}</strong> asks for access to a record in this clinic. Sign in to see what it asks for.</p>
<form method="post" action="login" autocomplete="on">
<input type="hidden" name="flow" value="{escape(flow)}">
{_credentials(name)}
</form>""",
        status=status,
    )


def _credentials(name: str) -> str:
    return f"""<label for="name">Name</label>
<input type="text" id="name" name="name" value="{escape(name)}" autocomplete="username" autocapitalize="none"
 spellcheck="false" maxlength="100" required>
<label for="password">Password</label>
<input type="password" id="password" name="password" autocomplete="current-password" maxlength="256" required>
{_code("One-time code, if your account has one")}
<button type="submit">Sign in</button>"""


def _code(label: str) -> str:
    return f"""<label for="code">{escape(label)}</label>
<input type="text" id="code" name="code" inputmode="numeric" autocomplete="one-time-code" maxlength="10">"""


def consent(
    app: str,
    flow: str,
    who: str,
    offered: Sequence[tuple[str, str]],
    to: str,
    *,
    ask_patient: bool,
    wrong: str | None = None,
    status: int = 200,
) -> HTMLResponse:
    """Return the page on which somebody lets an app in.

    Args:
        app: its name.
        flow: of the request.
        who: who is logged in.
        offered: scopes, and what they mean.
        to: where the answer goes.
        ask_patient: whether he has to say which patient it is about.
        wrong: what was wrong with his answer.
        status: of the page.

    """
    patient = """<label for="patient">Which patient? The id in the record</label>
<input type="text" id="patient" name="patient" autocomplete="off" spellcheck="false" maxlength="80" required>"""
    return page(
        f"Let {app} in?",
        f"""{_alert(wrong)}
<p>You are signed in as <strong>{escape(who)}</strong>. <strong>{escape(app)}</strong> asks to do this on your behalf.
Take away what it is not to do.</p>
<form method="post" action="consent">
<input type="hidden" name="flow" value="{escape(flow)}">
<fieldset>
<legend>What it may do</legend>
{_boxes(offered)}
</fieldset>
{patient if ask_patient else ""}
<button type="submit" name="decision" value="allow">Allow</button>
<button type="submit" name="decision" value="deny" formnovalidate>Do not allow</button>
</form>
<p class="small">The answer goes to {escape(_origin(to))}.</p>
<form method="post" action="logout">
<input type="hidden" name="flow" value="{escape(flow)}">
<button type="submit">This is not me: sign out</button>
</form>""",
        status=status,
        to=to,
    )


def sign_out(who: str | None) -> HTMLResponse:
    """Return the page on which somebody signs out."""
    if who is None:
        return page("Signed out", "<p>Nobody is signed in in this browser.</p>")
    return page(
        "Sign out",
        f"""<p>You are signed in as <strong>{escape(who)}</strong>.</p>
<form method="post" action="logout"><button type="submit">Sign out</button></form>""",
    )


@dataclass(frozen=True, slots=True)
class AppLetIn:
    """An app that a person let in.

    Attributes:
        id: of what he let it do.
        name: the app's.
        may: what it may do, in words.
        since, until: from when to when.
        used: when it last got a token; None: not lately.

    """

    id: str
    name: str
    may: Sequence[str]
    since: datetime
    until: datetime
    used: datetime | None


def account_login(mark: str, *, name: str = "", wrong: str | None = None, status: int = 200) -> HTMLResponse:
    """Return the page on which somebody signs in to his own account; `mark`: of the browser it is made for."""
    return page(
        "Sign in",
        f"""{_alert(wrong)}
<p>Sign in to change your password, and to see which apps you let in.</p>
<form method="post" action="account" autocomplete="on">
<input type="hidden" name="form" value="{escape(mark)}">
{_credentials(name)}
</form>""",
        status=status,
    )


def account(
    who: str, mark: str, apps: Sequence[AppLetIn], *, code: bool, wrong: str | None = None, status: int = 200
) -> HTMLResponse:
    """Return the page of somebody's account.

    Args:
        who: the name he signs in by.
        mark: of the login that the forms are made for.
        apps: what he let in.
        code: whether he is asked for a one-time code, too.
        wrong: what was wrong with his last answer.
        status: of the page.

    """
    listed = "\n".join(_app(one, mark) for one in apps) or "<p>You let no app in.</p>"
    return page(
        "Your account",
        f"""{_alert(wrong)}
<p>You are signed in as <strong>{escape(who)}</strong>.</p>
<h2>Apps that you let in</h2>
{listed}
<h2>Another password</h2>
<form method="post" action="password" autocomplete="on">
<input type="hidden" name="form" value="{escape(mark)}">
<label for="password">The password that you have</label>
<input type="password" id="password" name="password" autocomplete="current-password" maxlength="256" required>
{_code("One-time code, a new one") if code else ""}
<label for="new">The new password</label>
<input type="password" id="new" name="new" autocomplete="new-password" maxlength="256" required>
<label for="again">The new password again</label>
<input type="password" id="again" name="again" autocomplete="new-password" maxlength="256" required>
<p class="small">You are signed out everywhere else, and every app has to ask you again.</p>
<button type="submit">Change the password</button>
</form>
<form method="post" action="logout"><button type="submit">Sign out</button></form>""",
        status=status,
    )


def _app(one: AppLetIn, mark: str) -> str:
    may = "".join(f"<li>{escape(each)}</li>" for each in one.may)
    used = "not lately" if one.used is None else f"{one.used:%Y-%m-%d %H:%M} UTC"
    return f"""<form method="post" action="apps">
<fieldset>
<legend>{escape(one.name)}</legend>
<input type="hidden" name="form" value="{escape(mark)}">
<input type="hidden" name="app" value="{escape(one.id)}">
<ul>{may}</ul>
<p class="small">Since {one.since:%Y-%m-%d %H:%M} UTC, until {one.until:%Y-%m-%d} at the latest; last used: {used}.</p>
<button type="submit">End this</button>
</fieldset>
</form>"""


def problem(what: str, *, status: int = 400) -> HTMLResponse:
    """Return a page that tells what is wrong, for what cannot be told to an app."""
    return page("This does not work", f'<p role="alert">{escape(what)}</p>', status=status)


def _alert(wrong: str | None) -> str:
    return "" if wrong is None else f'<p role="alert">{escape(wrong)}</p>'


def _boxes(offered: Iterable[tuple[str, str]]) -> str:
    return "\n".join(
        f'<label><input type="checkbox" name="scope" value="{escape(scope)}" checked> {escape(meaning)} '
        f'<span class="small">({escape(scope)})</span></label>'
        for scope, meaning in offered
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"
