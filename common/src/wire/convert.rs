//! Messages ↔ domain types.

use super::{MAX_SAMPLES_PER_BATCH, v1};
use crate::id::{AgentId, Attempt, IdError, SlotId, TrialId};
use crate::lease::Holder;
use crate::plan::CellSettings;
use crate::telemetry::{Channel, MonoNanos, Sample};

/// Why a message is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// An id is malformed.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A part that must be there is not.
    #[error("the message lacks {0}")]
    Missing(&'static str),
    /// A part contradicts another or its own form.
    #[error("{0}")]
    Invalid(String),
}

impl From<&TrialId> for v1::TrialId {
    fn from(id: &TrialId) -> Self {
        Self { cell: id.cell.to_string(), repeat: id.repeat, hardware: id.hardware.as_ref().map(ToString::to_string) }
    }
}

impl TryFrom<v1::TrialId> for TrialId {
    type Error = WireError;
    fn try_from(id: v1::TrialId) -> Result<Self, WireError> {
        Ok(Self {
            cell: id.cell.parse()?,
            repeat: id.repeat,
            hardware: id.hardware.map(|class| class.parse()).transpose()?,
        })
    }
}

/// A trial id that must be there.
pub fn trial(id: Option<v1::TrialId>) -> Result<TrialId, WireError> {
    id.ok_or(WireError::Missing("a trial id"))?.try_into()
}

/// A lease as an agent names it: trial, attempt and holder.
pub fn lease(agent: &AgentId, lease: v1::HeldLease) -> Result<(TrialId, Attempt, Holder), WireError> {
    let slot: SlotId = lease.slot.parse()?;
    Ok((trial(lease.trial)?, lease.attempt.try_into()?, Holder { agent: agent.clone(), slot }))
}

/// A cell's settings, which must hash to the cell's id.
pub fn settings(cell: &crate::id::CellId, json: &str) -> Result<CellSettings, WireError> {
    let settings: CellSettings = serde_json::from_str(json)
        .map_err(|e| WireError::Invalid(format!("a cell's settings are not readable: {e}")))?;
    let id = settings.id();
    if id == *cell {
        Ok(settings)
    } else {
        Err(WireError::Invalid(format!(
            "the settings hash to {id}, not to the cell id {cell}: the two sides disagree about what a cell is"
        )))
    }
}

/// Samples as one batch; they must be numbered without gaps.
pub fn batch(
    trial: &TrialId,
    attempt: Attempt,
    samples: &[Sample],
    wall_offset_nanos: i64,
    boot_id: &str,
) -> v1::SampleBatch {
    v1::SampleBatch {
        trial: Some(trial.into()),
        attempt: attempt.get(),
        first_number: samples.first().map_or(0, |s| s.number),
        at_nanos: samples.iter().map(|s| s.at.0).collect(),
        series: samples.iter().map(|s| s.channel.code()).collect(),
        value: samples.iter().map(|s| s.value).collect(),
        wall_offset_nanos,
        boot_id: boot_id.to_owned(),
    }
}

/// Whether a batch is one: lists of one length, not too long, numbers that end.
pub fn check(batch: &v1::SampleBatch) -> Result<(), WireError> {
    let n = batch.at_nanos.len();
    if batch.series.len() != n || batch.value.len() != n {
        return Err(WireError::Invalid(format!(
            "a sample batch has {n} times, {} series and {} values",
            batch.series.len(),
            batch.value.len()
        )));
    }
    if n > MAX_SAMPLES_PER_BATCH {
        return Err(WireError::Invalid(format!("a sample batch has {n} samples; at most {MAX_SAMPLES_PER_BATCH}")));
    }
    if batch.first_number.checked_add(n as u64).is_none() {
        return Err(WireError::Invalid("a sample batch's numbers overflow".to_owned()));
    }
    Ok(())
}

/// The samples of a batch. A series that this version does not know is left out; its numbers count as received.
pub fn samples(batch: &v1::SampleBatch) -> Result<Vec<Sample>, WireError> {
    check(batch)?;
    let n = batch.at_nanos.len();
    Ok((0..n)
        .filter_map(|i| {
            Some(Sample {
                number: batch.first_number + i as u64,
                at: MonoNanos(batch.at_nanos[i]),
                channel: Channel::from_code(batch.series[i])?,
                value: batch.value[i],
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Series;

    fn id() -> TrialId {
        "0123456789abcdef0123456789abcdef/2/A 1".parse().expect("an id")
    }

    #[test]
    fn ids_pass_unchanged_and_nonsense_does_not() {
        assert_eq!(trial(Some((&id()).into())), Ok(id()));
        assert_eq!(trial(None), Err(WireError::Missing("a trial id")));
        let wrong = v1::TrialId { cell: "xyz".into(), ..(&id()).into() };
        assert!(matches!(trial(Some(wrong)), Err(WireError::Id(_))));
    }

    #[test]
    fn batches_are_checked() {
        let sample = |number, series: Series| Sample {
            number,
            at: MonoNanos(number * 10),
            channel: series.into(),
            value: -(number as i64),
        };
        let list = [sample(5, Series::AllocatorLiveBytes), sample(6, Series::GpuPowerMilliwatts)];
        let good = batch(&id(), Attempt::FIRST, &list, 7, "boot");
        assert_eq!(samples(&good), Ok(list.to_vec()));
        let unknown = v1::SampleBatch { series: vec![1, 999], ..good.clone() };
        assert_eq!(samples(&unknown), Ok(list[..1].to_vec()));
        assert!(samples(&v1::SampleBatch { value: vec![], ..good.clone() }).is_err());
        assert!(samples(&v1::SampleBatch { first_number: u64::MAX, ..good }).is_err());
    }
}
