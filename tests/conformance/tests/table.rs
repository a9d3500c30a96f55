//! The table as a whole, and what is written down of it.

use std::fs;
use std::path::{Path, PathBuf};

use hearth_conformance::record::{HEARTH, Record, State};
use hearth_conformance::report;
use hearth_conformance::table::{Row, Table};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Whether this is `<section>-<letter><number>` or alike.
fn is_row_id(id: &str) -> bool {
    match id.split_once('-') {
        None => false,
        Some((section, rest)) => {
            section.starts_with(|c: char| c.is_ascii_digit())
                && rest.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        }
    }
}

#[test]
fn every_row_is_written_well_and_has_a_name_of_its_own() {
    let table = Table::load().unwrap();
    assert!(table.rows().count() > 100);
    let misnamed: Vec<_> = table
        .rows()
        .map(|row| row.id.as_str())
        .filter(|id| !is_row_id(id))
        .collect();
    assert!(misnamed.is_empty(), "{misnamed:?}");
}

#[test]
fn a_row_that_is_tried_looks_at_something() {
    let table = Table::load().unwrap();
    let looks = |steps: &[hearth_conformance::steps::Step]| {
        use hearth_conformance::steps::Step;
        steps.iter().any(|step| match step {
            Step::Create(step) => step.refused.is_some(),
            Step::Patch(step) => step.refused.is_some(),
            Step::Delete(_) => false,
            _ => true,
        })
    };
    let blind: Vec<_> = table
        .rows()
        .filter(|row: &&Row| {
            let instead = row
                .choice
                .as_ref()
                .map_or(&[][..], |choice| &choice.instead);
            [row.steps.as_slice(), instead]
                .iter()
                .any(|steps| !steps.is_empty() && !looks(steps))
        })
        .map(|row| &row.id)
        .collect();
    assert!(blind.is_empty(), "{blind:?}");
}

#[test]
fn nothing_is_recorded_of_a_row_that_is_not_tried_any_more() {
    let table = Table::load().unwrap();
    let record = Record::load(&here().join("results/hearth.json")).unwrap();
    let left = record.without_steps(&table, HEARTH);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_choice_that_does_not_show_what_was_chosen_cannot_be_recorded() {
    let table = Table::load().unwrap();
    let record = Record::load(&here().join("results/hearth.json")).unwrap();
    let failing: Vec<_> = table
        .rows()
        .filter(|row| row.choice.is_some())
        .filter(|row| record.rows.get(&row.id) == Some(&State::Fails))
        .map(|row| &row.id)
        .collect();
    assert!(
        failing.is_empty(),
        "these are neither as upstream nor as was chosen: {failing:?}"
    );
}

#[test]
fn the_document_says_what_the_rows_and_the_record_say() {
    let table = Table::load().unwrap();
    let record = Record::load(&here().join("results/hearth.json")).unwrap();
    let file = here().join("../../docs/conformance.md");
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == report::document(&table, &record),
        "docs/conformance.md is not what the rows and results/hearth.json say; write it with `cargo xtask conformance \
         --write`, or without a cluster with `cargo run -p hearth-conformance -- document --record \
         tests/conformance/results/hearth.json`"
    );
}
