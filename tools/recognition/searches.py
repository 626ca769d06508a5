"""Checks that an export has the search that a session is asked for."""

from collections.abc import Mapping

from tools.errors import UserError

GREEDY, BEAM = "greedy", "beam"


def check_search(pipeline: Mapping, beam_width: int) -> None:
    """Checks that an export has the search that a session is asked for.

    Args:
        pipeline: content of the model's `pipeline.json`. Its `searches` name, for the signature
            whose output sessions decode, the `kinds` of search that decode it. Exports of earlier
            versions do not have them, and are not checked.
        beam_width: hypotheses of the beam search; 0 for greedy search.

    Raises:
        UserError: the export does not have this search.
    """
    wanted = BEAM if beam_width else GREEDY
    for search in pipeline.get("searches", {}).values():
        kinds = search.get("kinds")
        if kinds is not None and wanted not in kinds:
            do = "Leave --beam_width out" if beam_width else "Give --beam_width 8"
            raise UserError.expected(f"a search of this export ({', '.join(kinds)})", wanted, do)
