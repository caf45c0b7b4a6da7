"""A contract for import-linter: what modules import from outside overlayd is on a list of what they may.

type = "allowed"
source_modules = ["overlayd.wire"]         with all that is in them, also what comes later
allowed_modules = ["struct", "urllib.parse"]
"""

from __future__ import annotations

import re
from typing import Any

from grimp import ImportGraph
from importlinter.application import output
from importlinter.domain import fields
from importlinter.domain.contract import Contract, ContractCheck

_MODULE = re.compile(r"\s*(?:from|import)\s+([\w.]+)")


class AllowedImports(Contract):
    """Imports inside overlayd are not its business."""

    type_name = "allowed"

    source_modules = fields.SetField(subfield=fields.StringField())
    allowed_modules = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        fields: Any = self
        broken = [
            f"{importer}:{detail['line_number']}: {detail['line_contents'].strip()}"
            for source in sorted(fields.source_modules)
            for importer in sorted({source} | graph.find_descendants(source))
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if graph.is_module_squashed(imported)
            for detail in graph.get_import_details(importer=importer, imported=imported)
            if not _is_allowed(detail["line_contents"], fields.allowed_modules)
        ]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["broken"]:
            output.print_error(f"{line}  (not on the list of what may be imported)")


def _is_allowed(line: str, allowed: set[str]) -> bool:
    """`line` is the first of an import statement, which names the module in full where the graph has only its root."""
    found = _MODULE.match(line)
    return found is not None and any(f"{found[1]}.".startswith(f"{name}.") for name in allowed)
