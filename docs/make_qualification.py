"""Write the table of requirements and their tests in ``docs/qualification.md``.

Run ``python docs/make_qualification.py`` after a change of the tests that are named here. A test
that is not there any more is an error.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "qualification.md"
TESTS = DOCS.parent / "tests"
BEGIN, END = "<!-- make_qualification.py: begin -->\n", "<!-- make_qualification.py: end -->\n"


class Requirement(NamedTuple):
    """What a user relies on, and the tests that would fail if it did not hold."""

    text: str
    tests: dict[str, str]
    """Names of test functions, without ``test_`` and divided by spaces, by file."""


REQUIREMENTS = (
    Requirement(
        "The same cells, model and settings give the same labels, whatever the number of threads.",
        {
            "test_golden.py": "outputs_are_those_stored",
            "test_annotator.py": "the_number_of_threads_changes_no_bit",
            "test_properties.py": "same_input_same_bits batch_and_chunk_sizes_change_nothing",
        },
    ),
    Requirement(
        "An installed package labels golden cases as the released one did, and leaves a record.",
        {
            "test_qualification.py": "every_shipped_model_has_a_golden_case_and_passes "
            "what_differs_is_noticed another_model_of_that_name_fails "
            "altered_and_missing_files_of_the_package_are_named",
        },
    ),
    Requirement(
        "Each label stands beside its own cell.",
        {
            "test_properties.py": "permuting_cells_permutes_labels",
            "test_parallel.py": "results_come_in_the_order_of_the_items",
        },
    ),
    Requirement(
        "Genes are matched by their names or ids, never by their place.",
        {
            "test_gene_match.py": "genes_are_joined_by_name_not_by_place "
            "a_name_of_two_genes_stands_for_neither",
            "test_properties.py": "reordering_genes_changes_nothing",
            "test_validate.py": "genes_in_another_order_than_in_training_are_refused",
        },
    ),
    Requirement(
        "Cells of another species, or with too few genes, get no label.",
        {
            "test_gene_match.py": "another_species_is_refused_unless_allowed "
            "coverage_below_the_floor_is_refused_and_the_floor_is_the_users",
            "test_annotator.py": "mouse_on_a_human_model_is_refused_whatever_the_case "
            "cells_of_a_second_species_are_unknown_and_counted",
        },
    ),
    Requirement(
        "Values that are neither counts nor their logarithm are refused.",
        {
            "test_matrices.py": "scaled_values_are_not_usable one_value_that_is_no_number_is_seen "
            "counts_and_logarithms_in_one_matrix_are_refused "
            "no_usable_matrix_is_refused_with_each_reason",
            "test_annotator.py": "bad_matrices_are_one_line",
        },
    ),
    Requirement(
        "A cell is unknown if its support is below the threshold.",
        {
            "test_annotator.py": "unknown_is_exactly_below_the_threshold "
            "cells_of_a_type_that_the_model_never_saw_stand_out",
            "test_properties.py": "empty_cells_are_unknown_and_move_no_other",
        },
    ),
    Requirement(
        "A model that was altered, or is not what training writes, is refused.",
        {
            "test_bundle.py": "one_altered_byte_is_refused_by_the_name_of_its_file "
            "a_truncated_file_is_refused",
            "test_validate.py": "a_shipped_model_whose_labels_are_shifted_is_refused "
            "a_shipped_model_whose_genes_are_turned_is_refused "
            "a_model_that_does_not_run_rightly_is_refused",
            "sharing/test_signatures.py": "a_changed_file_is_refused another_key_is_refused",
        },
    ),
    Requirement(
        "A released model gives the same labels in later releases.",
        {"sharing/test_frozen_bundles.py": "an_old_bundle_is_read an_old_bundle_gives_its_labels"},
    ),
    Requirement(
        "The input is not changed unless the user asks for it.",
        {
            "test_atomic.py": "an_input_is_no_output no_output_goes_into_a_store_that_is_read",
            "test_identity.py": "labels_of_a_file_that_was_swapped_are_not_written",
            "test_cli.py": "the_input_is_no_output_unless_in_place",
        },
    ),
    Requirement(
        "An output is whole or not there at all.",
        {
            "test_atomic.py": "an_interrupted_block_leaves_the_old_file_and_nothing_else "
            "a_full_disk_leaves_nothing of_two_outputs_none_is_put_where_one_cannot_be",
            "test_cli.py": "an_interrupted_write_leaves_nothing",
        },
    ),
    Requirement(
        "The output says which model, matrix, genes, settings and versions made it.",
        {
            "test_provenance.py": "uns_holds_each_key_in_its_order "
            "a_file_holds_the_record_and_gives_it_back",
            "test_cli.py": "annotate_json_says_the_same_as_the_file",
        },
    ),
    Requirement(
        "A damaged or hostile file ends in one line, and runs nothing.",
        {
            "test_corpus.py": "broken_files_end_in_one_line "
            "damage_anywhere_ends_well_and_in_bounded_memory",
            "test_bundle.py": "a_record_cannot_point_outside_its_folder",
            "sharing/test_signatures.py": "what_is_not_signed_is_not_run",
        },
    ),
    Requirement(
        "A device that was asked for and does not work is an error.",
        {
            "test_sessions.py": "silent_fall_back_from_cuda_is_an_error cuda_without_cuda_build",
            "test_doctor.py": "a_gpu_that_does_not_load_is_a_problem "
            "a_provider_that_computes_nonsense_is_a_problem",
        },
    ),
    Requirement(
        "Versions of dependencies with a known fault cannot be installed with the package, "
        "and are named where they are.",
        {
            "test_versions.py": "no_version_with_a_known_fault_may_be_installed",
            "test_doctor.py": "a_known_bad_version_is_a_problem_with_its_repair "
            "an_old_hdf5_library_is_a_problem",
        },
    ),
    Requirement(
        "Labelling uses no network and sends nothing to anyone.",
        {
            "test_sessions.py": "nothing_is_reported_to_anyone",
            "sharing/test_signatures.py": "no_network_is_used",
        },
    ),
)


def tests_of(file: Path) -> set[str]:
    """Return the names of the test functions of a file, without ``test_``."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return {name.removeprefix("test_") for name in names if name.startswith("test_")}


def row(number: int, requirement: Requirement) -> str:
    """Return the line of a requirement in the table."""
    parts = []
    for file, names in requirement.tests.items():
        if missing := set(names.split()) - tests_of(TESTS / file):
            raise LookupError(f"{file} has no test {', '.join(sorted(missing))}")
        parts.append(f"`{file}`: {'; '.join(n.replace('_', ' ') for n in names.split())}")
    return f"| R{number} | {requirement.text} | {'<br>'.join(parts)} |"


def table() -> str:
    """Return the table of all requirements."""
    rows = [row(i, requirement) for i, requirement in enumerate(REQUIREMENTS, 1)]
    return "\n".join(["| | requirement | tests that would fail |", "|---|---|---|", *rows, ""])


def page() -> str:
    """Return the page with the table as the tests are now."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
