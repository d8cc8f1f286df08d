//! A million cells as the journal and snapshots hold them: what they have in common once, the rest in columns. As messages
//! of their own they would be a gigabyte.

use std::collections::HashMap;
use std::sync::Arc;

use fleet_common::id::{CellId, TrialId};
use fleet_common::plan::{Around, SettingsText, Texts};
use fleet_common::wire::{WireError, v1};

use super::{CellEntry, Submission};

/// Cells in columns.
pub(in crate::core) fn from_cells<'a>(cells: impl Iterator<Item = &'a CellEntry>) -> v1::PlannedCells {
    let mut packed = v1::PlannedCells::default();
    // By address: hashing a kilobyte for each of a million cells would take a second.
    let mut texts: HashMap<(*const Around, bool), u32> = HashMap::new();
    let mut datasets: HashMap<&str, u32> = HashMap::new();
    for CellEntry { id, settings, dataset } in cells {
        packed.ids.extend_from_slice(&id.bytes());
        let seed = settings.seed();
        let text = *texts.entry((Arc::as_ptr(settings.around()), seed.is_some())).or_insert_with(|| {
            let Around { front, behind } = settings.around().as_ref().clone();
            packed.texts.push(v1::SettingsText { front, behind, seeded: seed.is_some() });
            packed.texts.len() as u32 - 1
        });
        packed.text_of.push(text);
        let dataset = *datasets.entry(dataset).or_insert_with(|| {
            packed.datasets.push(dataset.to_string());
            packed.datasets.len() as u32 - 1
        });
        packed.dataset_of.push(dataset);
        packed.seeds.push(seed.unwrap_or(0));
    }
    packed
}

/// The reverse. Texts are kept once in `texts`.
pub(in crate::core) fn to_cells(packed: v1::PlannedCells, texts: &mut Texts) -> Result<Vec<CellEntry>, WireError> {
    let v1::PlannedCells { ids, texts: own, text_of, datasets, dataset_of, seeds } = packed;
    let ids = ids.as_chunks::<16>();
    let n = ids.0.len();
    if !ids.1.is_empty() || [text_of.len(), dataset_of.len(), seeds.len()] != [n; 3] {
        return Err(WireError::Invalid(format!("columns of {n} cells have different lengths")));
    }
    let mut keep =
        |v1::SettingsText { front, behind, seeded }| (texts.keep(Arc::new(Around { front, behind })), seeded);
    let own: Vec<(Arc<Around>, bool)> = own.into_iter().map(&mut keep).collect();
    let datasets: Vec<Arc<str>> = datasets.into_iter().map(Into::into).collect();
    let mut cells = Vec::with_capacity(n);
    for (i, id) in ids.0.iter().enumerate() {
        let (around, seeded) = own.get(text_of[i] as usize).ok_or(WireError::Missing("a cell's settings"))?;
        let dataset = datasets.get(dataset_of[i] as usize).ok_or(WireError::Missing("a cell's data set"))?;
        cells.push(CellEntry {
            id: CellId::from_bytes(*id),
            settings: SettingsText::new(around.clone(), seeded.then_some(seeds[i])),
            dataset: dataset.clone(),
        });
    }
    Ok(cells)
}

/// Cells in columns, and trials as runs of them: a plan has a run per repeat and hardware class. None where a trial's cell
/// is not among the cells.
pub(super) fn pack(cells: &[CellEntry], trials: &[TrialId]) -> Option<(v1::PlannedCells, Vec<v1::TrialRun>)> {
    let places: HashMap<&CellId, u32> = cells.iter().map(|c| &c.id).zip(0..).collect();
    let mut runs: Vec<v1::TrialRun> = Vec::new();
    for TrialId { cell, hardware, repeat } in trials {
        let place = *places.get(cell)?;
        match runs.last_mut() {
            Some(run)
                if run.repeat == *repeat
                    && run.hardware.as_deref() == hardware.as_ref().map(|h| h.as_str())
                    && run.first + run.count == place =>
            {
                run.count += 1;
            }
            _ => runs.push(v1::TrialRun {
                first: place,
                count: 1,
                repeat: *repeat,
                hardware: hardware.as_ref().map(ToString::to_string),
            }),
        }
    }
    Some((from_cells(cells.iter()), runs))
}

/// A submission that was packed.
pub(super) fn to_submission(planned: v1::CampaignPlanned) -> Result<Submission, WireError> {
    let v1::CampaignPlanned { rest, cells, trials } = planned;
    let mut submission = super::to_submission(rest.ok_or(WireError::Missing("a campaign"))?)?;
    submission.cells = to_cells(cells.ok_or(WireError::Missing("a campaign's cells"))?, &mut Texts::default())?;
    for v1::TrialRun { first, count, repeat, hardware } in trials {
        let hardware = hardware.map(|h| h.parse()).transpose()?;
        let cells =
            (first as usize).checked_add(count as usize).and_then(|end| submission.cells.get(first as usize..end));
        let cells = cells.ok_or(WireError::Missing("a trial's cell"))?;
        let trial = |cell: &CellEntry| TrialId { cell: cell.id.clone(), hardware: hardware.clone(), repeat };
        submission.trials.extend(cells.iter().map(trial));
    }
    Ok(submission)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(n: u8, text: &str, dataset: &str) -> CellEntry {
        CellEntry { id: CellId::from_bytes([n; 16]), settings: SettingsText::of(text), dataset: dataset.into() }
    }

    #[test]
    fn columns_keep_every_cell_and_what_cells_share_is_kept_once() {
        let text = |seed: u64| format!("{{\"a\":1,\"seed\":{seed},\"z\":2}}");
        let cells = [
            cell(1, &text(0), "dtd"),
            cell(2, &text(u64::MAX), "textures"),
            cell(3, "no seed", "dtd"),
            cell(4, "{\"seed\":7", "dtd"),
            cell(5, "{\"seed\":", "dtd"),
        ];
        let mut texts = Texts::default();
        let back = to_cells(from_cells(cells.iter()), &mut texts).expect("its own columns");
        assert_eq!(back, cells);
        assert!(Arc::ptr_eq(back[0].settings.around(), back[1].settings.around()));
        let mut short = from_cells(cells.iter());
        short.seeds.pop();
        assert!(to_cells(short, &mut texts).is_err(), "columns of different lengths");
        let mut wrong = from_cells(cells.iter());
        wrong.text_of[0] = 9;
        assert!(to_cells(wrong, &mut texts).is_err());
    }

    #[test]
    fn trials_are_runs_and_a_strangers_trial_cannot_be_packed() {
        let cells = [cell(1, "", "dtd"), cell(2, "", "dtd"), cell(3, "", "dtd")];
        let gpu = Some("A GPU".parse().expect("a class"));
        let trial = |n: usize, repeat, hardware: &Option<_>| TrialId {
            cell: cells[n].id.clone(),
            hardware: hardware.clone(),
            repeat,
        };
        let plan: Vec<TrialId> = [(0, &None), (0, &gpu), (1, &None)]
            .into_iter()
            .flat_map(|(r, h)| (0..3).map(move |n| trial(n, r, h)))
            .collect();
        let (packed, runs) = pack(&cells, &plan).expect("its own trials");
        assert_eq!(runs.len(), 3);
        let rest = v1::CampaignSubmitted { name: "c".into(), ..Default::default() };
        let planned = v1::CampaignPlanned { rest: Some(rest), cells: Some(packed), trials: runs };
        assert_eq!(to_submission(planned.clone()).expect("its own").trials, plan);
        let mut beyond = planned;
        beyond.trials[0].count = u32::MAX;
        assert!(to_submission(beyond).is_err(), "more trials than cells");
        let odd = [trial(2, 0, &None), trial(0, 0, &None), trial(0, 0, &None)];
        assert_eq!(pack(&cells, &odd).expect("in any order").1.len(), 3);
        assert_eq!(pack(&cells[..1], &plan), None);
    }
}
