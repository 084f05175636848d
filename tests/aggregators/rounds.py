"""Rounds of small whole numbers, so that ties are common."""

from hypothesis import strategies as st

rounds = st.integers(1, 9).flatmap(
    lambda clients: st.integers(1, 4).flatmap(
        lambda size: st.lists(
            st.lists(st.integers(-3, 3), min_size=size, max_size=size), min_size=clients, max_size=clients
        )
    )
)
