//! Batches ↔ the columns of a chunk.
//!
//! Ten series read twenty times a second have times and counters with many digits, most of which are those of the reading
//! before; and a series that hardly changes should not be scattered among those that do.

use fleet_common::wire::v1;

/// The columns of some batches of one attempt.
pub(super) fn pack(trial: v1::TrialId, attempt: u32, batches: &[v1::SampleBatch]) -> v1::SampleChunk {
    let run = |b: &v1::SampleBatch| v1::SampleRun {
        first_number: b.first_number,
        count: b.at_nanos.len() as u32,
        wall_offset_nanos: b.wall_offset_nanos,
        boot_id: b.boot_id.clone(),
    };
    let at = batches.iter().flat_map(|b| &b.at_nanos).map(|at| *at as i64);
    let series: Vec<u32> = batches.iter().flat_map(|b| &b.series).copied().collect();
    let values: Vec<i64> = batches.iter().flat_map(|b| &b.value).copied().collect();
    let mut before = None;
    let value_delta = by_series(&series).into_iter().map(|i| {
        let from = before.filter(|(s, _)| *s == series[i]).map_or(0, |(_, value)| value);
        before = Some((series[i], values[i]));
        values[i].wrapping_sub(from)
    });
    v1::SampleChunk {
        trial: Some(trial),
        attempt,
        runs: batches.iter().map(run).collect(),
        at_delta: differences(at).collect(),
        value_delta: value_delta.collect(),
        series,
    }
}

/// The batches of a chunk; `None` if its columns contradict each other.
pub(super) fn unpack(chunk: v1::SampleChunk) -> Option<Vec<v1::SampleBatch>> {
    let n = chunk.series.len();
    let told: u64 = chunk.runs.iter().map(|run| u64::from(run.count)).sum();
    if chunk.at_delta.len() != n || chunk.value_delta.len() != n || told != n as u64 {
        return None;
    }
    let mut values = vec![0i64; n];
    let mut before = None;
    for (i, delta) in by_series(&chunk.series).into_iter().zip(&chunk.value_delta) {
        let from = before.filter(|(s, _)| *s == chunk.series[i]).map_or(0, |(_, value)| value);
        values[i] = delta.wrapping_add(from);
        before = Some((chunk.series[i], values[i]));
    }
    let mut now = 0i64;
    let mut at = chunk.at_delta.iter().map(|delta| {
        now = now.wrapping_add(*delta);
        now as u64
    });
    let (mut series, mut values) = (chunk.series.into_iter(), values.into_iter());
    let batch = |run: v1::SampleRun| {
        let count = run.count as usize;
        v1::SampleBatch {
            trial: chunk.trial.clone(),
            attempt: chunk.attempt,
            first_number: run.first_number,
            at_nanos: at.by_ref().take(count).collect(),
            series: series.by_ref().take(count).collect(),
            value: values.by_ref().take(count).collect(),
            wall_offset_nanos: run.wall_offset_nanos,
            boot_id: run.boot_id,
        }
    };
    Some(chunk.runs.into_iter().map(batch).collect())
}

/// The places of a chunk's readings in the order of `value_delta`.
fn by_series(series: &[u32]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..series.len()).collect();
    places.sort_by_key(|i| series[*i]);
    places
}

fn differences(values: impl Iterator<Item = i64>) -> impl Iterator<Item = i64> {
    let mut before = 0i64;
    values.map(move |value| value.wrapping_sub(std::mem::replace(&mut before, value)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trial() -> v1::TrialId {
        v1::TrialId { cell: "ab".repeat(16), repeat: 1, hardware: Some("X".to_owned()) }
    }

    proptest! {
        /// Whatever an agent sent comes back, wrapped counters and unknown series included.
        #[test]
        fn what_was_packed_comes_back(
            batches in prop::collection::vec(
                (any::<u64>(), any::<i64>(), prop::collection::vec((any::<u64>(), 0u32..4, any::<i64>()), 0..20)),
                0..5,
            )
        ) {
            let batches: Vec<v1::SampleBatch> = batches
                .into_iter()
                .map(|(first_number, wall_offset_nanos, samples)| v1::SampleBatch {
                    trial: Some(trial()),
                    attempt: 3,
                    first_number,
                    at_nanos: samples.iter().map(|s| s.0).collect(),
                    series: samples.iter().map(|s| s.1).collect(),
                    value: samples.iter().map(|s| s.2).collect(),
                    wall_offset_nanos,
                    boot_id: "boot".to_owned(),
                })
                .collect();
            prop_assert_eq!(unpack(pack(trial(), 3, &batches)), Some(batches));
        }
    }

    #[test]
    fn columns_that_contradict_each_other_are_refused() {
        let batch =
            v1::SampleBatch { at_nanos: vec![1, 2], series: vec![1, 1], value: vec![5, 6], ..Default::default() };
        let good = pack(trial(), 1, &[batch]);
        assert!(unpack(good.clone()).is_some());
        assert_eq!(unpack(v1::SampleChunk { series: vec![1], ..good.clone() }), None);
        assert_eq!(unpack(v1::SampleChunk { runs: vec![], ..good.clone() }), None);
        assert_eq!(unpack(v1::SampleChunk { value_delta: vec![], ..good }), None);
    }
}
