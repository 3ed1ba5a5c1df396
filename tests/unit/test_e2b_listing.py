"""Which sandboxes E2B's SDKs are shown, page by page, without a server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import parse_qs, quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_sandbox import sandbox
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.events import Origin
from jupyter_sandbox.sandbox import Filter, SandboxState, SandboxView
from jupyter_sandbox.surfaces.e2b import listing

pytestmark = pytest.mark.unit

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def view(
    number, second=0, *, microsecond=0, state=SandboxState.READY, origin=Origin.CLAIM, template="python", metadata=None
):
    return SandboxView(
        id=f"sbx_{number:020x}",
        template=template,
        state=state,
        origin=origin,
        created_at=NOON + timedelta(seconds=second, microseconds=microsecond),
        expires_at=None,
        metadata=metadata or {},
        contexts=(),
    )


def judged(**query):
    return listing.judge({name: [value] for name, value in query.items()}, lambda theirs: theirs)


def ids(views):
    return [int(each.id[4:], 16) for each in views]


def found(views, **query):
    return ids(judged(**query).of(views)[0])


# -- pages


VIEWS = st.lists(
    st.builds(
        view,
        st.integers(0, 50),
        st.integers(0, 3),  # many at the same moment
        microsecond=st.integers(0, 2),
        state=st.sampled_from(SandboxState),
        origin=st.sampled_from(Origin),
    ),
    unique_by=lambda each: each.id,
    max_size=30,
)


@given(VIEWS, st.integers(1, 8), st.sampled_from(["asc", "desc"]), st.randoms(use_true_random=False))
def test_pages_one_after_another_are_the_whole_list_however_long_they_are(views, limit, order, chance):
    whole, more = judged(order=order, limit="1000").of(views)
    assert not more
    assert whole == sorted(whole, key=sandbox.by_time, reverse=order == "desc")
    assert set(ids(whole)) == {
        *ids(each for each in views if each.origin is Origin.CLAIM and each.state is not SandboxState.ENDING)
    }
    pages, following = [], ""
    while True:
        chance.shuffle(views)
        page, following = judged(order=order, limit=str(limit), nextToken=following).of(views)
        pages += page
        if not following:
            break
        assert len(page) == limit, "there are more, so a page is full"
    assert pages == whole


@given(VIEWS, st.integers(1, 8))
def test_pages_by_id_are_the_whole_list_too(views, limit):
    pages, after, has_more = [], "", True
    while has_more:
        page, has_more = sandbox.page(views, Filter(), limit, place=sandbox.by_id, after=after)
        pages += page
        after = page[-1].id if page else ""
    assert pages == sorted(views, key=lambda each: each.id)


def test_a_page_goes_on_where_one_ended_whose_last_has_gone_meanwhile():
    views = [view(number, number) for number in range(4)]
    page, following = judged(limit="2").of(views)
    assert ids(page) == [3, 2]
    assert found([*views[:2], view(9, 9)], limit="2", nextToken=following) == [1, 0]


def test_notebooks_sandboxes_take_no_place_on_a_page():
    views = [view(number, number, origin=Origin.KERNEL if number % 2 else Origin.CLAIM) for number in range(6)]
    assert found(views, limit="2") == [4, 2]


def test_the_newest_comes_first_unless_the_other_order_is_asked_for():
    views = [view(1, 5), view(2, 7), view(3, 6)]
    assert found(views) == found(views, order="desc") == [2, 3, 1]
    assert found(views, order="asc") == [1, 3, 2]


# -- filters


def test_only_what_has_a_state_that_is_named_is_shown():
    views = [view(number, -number, state=state) for number, state in enumerate(SandboxState)]
    assert found(views) == found(views, state="running,paused") == found(views, state="") == [0, 1]
    assert (found(views, state="running"), found(views, state="paused")) == ([0], [1])
    both = listing.judge({"state": ["running", "paused"]}, str)
    assert ids(both.of(views)[0]) == [0, 1]


def test_only_what_was_made_then_or_later_is_shown():
    views = [view(1, -1), view(2, 0), view(3, 1)]
    assert found(views, startedAfter=NOON.isoformat()) == [3, 2]
    assert found(views, startedAfter="2026-11-29T12:00:00.001Z") == [3]
    there = (NOON + timedelta(seconds=1)).astimezone(timezone(timedelta(hours=-5)))
    assert found(views, startedAfter=there.isoformat()) == [3]
    for far, shown in (("0001-01-01T00:00:00+14:00", [3, 2, 1]), ("9999-12-31T23:59:59-14:00", [])):
        assert found(views, startedAfter=far) == shown


def test_only_what_is_of_a_template_is_shown_by_the_name_that_the_client_knows():
    views = [view(1, 1), view(2, 2, template="other")]
    assert found(views, template="other") == [2]
    assert found(views, template="nothing") == []
    wanted = listing.judge({"template": ["base"]}, {"base": "python"}.__getitem__)
    assert ids(wanted.of(views)[0]) == [1]


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4))
def test_metadata_is_what_the_sdk_quotes_twice(metadata):
    said = urlencode({quote(name): quote(value) for name, value in metadata.items()})
    query = parse_qs(urlencode({"metadata": said}), keep_blank_values=True)
    views = [view(1, 0, metadata=metadata), view(2, -1, metadata=metadata | {"more": ""}), view(3, -2)]
    shown = ids(listing.judge(query, str).of(views)[0])
    assert shown == ([1, 2] if metadata else [1, 2, 3])


@pytest.mark.parametrize(
    "query",
    [
        {"state": "ready"},
        {"state": "Paused"},
        {"state": "running,"},
        {"state": ","},
        {"order": "newest"},
        {"order": "DESC"},
        {"startedAfter": "yesterday"},
        {"startedAfter": "2026-11-29T12:00:00"},
        {"startedAfter": "1" * 5000},
        {"startedAfter": "\u00b2026-11-29T12:00:00Z"},
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "\u00b2"},
        {"limit": "9" * 5000},
        {"limit": " 1"},
        {"nextToken": "../x"},
        {"nextToken": "0" * 20},
        {"nextToken": f"{'9' * 17}-{'0' * 20}"},
        {"nextToken": f"1-{'0' * 20}\n"},
        {"nextToken": f"\u0661-{'0' * 20}"},
        {"nextToken": f"-1-{'0' * 20}"},
        {"metadata": "a=b&" * 65},
        {"templateID": "python"},
        {"\n" * 5000: "x"},
    ],
)
def test_what_cannot_be_obeyed_is_refused(query):
    with pytest.raises(InvalidRequestError) as refused:
        judged(**query)
    assert len(str(refused.value)) < 200


def test_what_can_be_said_once_is_refused_twice():
    with pytest.raises(InvalidRequestError, match="once"):
        listing.judge({"order": ["asc", "desc"]}, str)


@given(st.integers(0, 10**16 - 1), st.integers(0, 16**20 - 1))
def test_every_token_of_the_right_form_is_a_place(moment, number):
    place = judged(nextToken=f"{moment}-{number:020x}").after
    assert listing.token(view(number, (place[0] - NOON).total_seconds())).endswith(f"-{number:020x}")
