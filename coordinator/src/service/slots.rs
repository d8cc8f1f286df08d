//! Slots, their states and draining, as messages.

use fleet_common::id::{AgentId, SlotId};
use fleet_common::tags::{MOST_TAGS, Tag, Tags};
use fleet_common::wire::{WireError, v1};
use tonic::{Response, Status};

use super::{Service, ServiceError};
use crate::core::{Input, Reply, SlotAbout, SlotInfo, SlotState, Token};
use crate::scheduler::Eta;

/// Most characters of what an agent or a person says of a slot.
const MOST: usize = 200;

/// What somebody else says, fit for a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

pub(super) fn from_wire(slot: v1::Slot) -> Result<SlotInfo, WireError> {
    let tag = |(key, value): (String, String)| {
        format!("{key}={value}").parse::<Tag>().map_err(|e| WireError::Invalid(e.to_string()))
    };
    if slot.tags.len() > MOST_TAGS {
        let n = slot.tags.len();
        return Err(WireError::Invalid(format!("expected at most {MOST_TAGS} tags of a slot, found {n}")));
    }
    Ok(SlotInfo {
        slot: slot.slot.parse()?,
        hardware: slot.hardware.parse()?,
        memory_bytes: slot.memory_bytes,
        about: SlotAbout {
            model: plain(&slot.model),
            driver: plain(&slot.driver),
            compute_capability: plain(&slot.compute_capability),
            tags: slot.tags.into_iter().map(tag).collect::<Result<Tags, _>>()?,
            limit_bytes: slot.limit_bytes,
            fault: Some(plain(&slot.fault)).filter(|f| !f.is_empty()),
        },
    })
}

pub(super) fn to_wire(slot: SlotInfo) -> v1::Slot {
    v1::Slot {
        model: slot.model().to_owned(),
        slot: slot.slot.into(),
        hardware: slot.hardware.into(),
        memory_bytes: slot.memory_bytes,
        driver: slot.about.driver,
        compute_capability: slot.about.compute_capability,
        tags: slot.about.tags.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        limit_bytes: slot.about.limit_bytes,
        fault: slot.about.fault.unwrap_or_default(),
    }
}

pub(super) fn state(state: SlotState) -> v1::SlotState {
    let drain = state.drained;
    v1::SlotState {
        drained: drain.as_ref().map(crate::core::Drain::describe).unwrap_or_default(),
        fault: drain.as_ref().is_some_and(|d| d.fault),
        drained_unix_ms: drain.map_or(0, |d| d.since_unix_ms),
        label: state.label.unwrap_or_default(),
        seconds_left: state.seconds_left,
    }
}

pub(super) fn eta(eta: Result<Eta, String>) -> v1::Eta {
    match eta {
        Ok(eta) => {
            v1::Eta { seconds: Some(eta.seconds), seconds_90: Some(eta.seconds_90), note: eta.note.unwrap_or_default() }
        }
        Err(note) => v1::Eta { seconds: None, seconds_90: None, note },
    }
}

/// An agent, and a slot of it if one is named.
pub(super) fn named(agent: &str, slot: &str) -> Result<(AgentId, Option<SlotId>), WireError> {
    let slot = Some(slot).filter(|s| !s.is_empty()).map(str::parse).transpose()?;
    Ok((agent.parse()?, slot))
}

impl Service {
    pub(super) async fn drained(&self, input: impl FnOnce(Token) -> Input) -> Result<Response<v1::DrainReply>, Status> {
        let reply = self.driver.ask(input).await.map_err(ServiceError::from)?;
        let Reply::Drained(outcome) = reply else { return Err(ServiceError::WrongAnswer.into()) };
        let drained = outcome.map_err(ServiceError::from)?;
        let crate::core::Drained { slots, running, returned } = drained;
        Ok(Response::new(v1::DrainReply { slots, running, returned }))
    }
}
