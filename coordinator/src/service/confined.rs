//! Agents keep to themselves: what they say they are, and whose leases they speak of.

use fleet_common::id::AgentId;
use fleet_secure::server::{Peer, Refused};
use tonic::codegen::http::Extensions;

use super::{Service, ServiceError};
use crate::core::{ANOTHERS, Reply, Verdict};
use crate::security::Caller;

impl Service {
    /// Whether the sender of a request may speak for this agent: the certificate says who it is. Where nothing is
    /// encrypted, everybody is believed.
    pub(super) fn confine(&self, extensions: &Extensions, agent: &AgentId) -> Result<(), ServiceError> {
        let caller = Caller::of(extensions);
        if caller.may_be(agent) {
            return Ok(());
        }
        let who = caller.identity().map(ToString::to_string).unwrap_or_default();
        let text = format!("the certificate is for {who}; it does not speak for agent {agent}");
        Err(self.not_its_own(extensions, text))
    }

    /// What the core answered instead of what was asked for.
    pub(super) fn unexpected(&self, extensions: &Extensions, reply: &Reply) -> ServiceError {
        match reply {
            Reply::NotItsOwn => self.not_its_own(extensions, ANOTHERS.to_owned()),
            _ => ServiceError::WrongAnswer,
        }
    }

    /// Verdicts on claims of others' attempts are refusals, too.
    pub(super) fn note_claims(&self, extensions: &Extensions, verdicts: &[Verdict]) {
        for verdict in verdicts.iter().filter(|v| v.keep.as_ref().is_err_and(|why| why == ANOTHERS)) {
            let claim = &verdict.claim;
            drop(self.not_its_own(extensions, format!("trial {} attempt {}: {ANOTHERS}", claim.trial, claim.attempt)));
        }
    }

    fn not_its_own(&self, extensions: &Extensions, text: String) -> ServiceError {
        self.counts.refused(Refused::NotItsOwn);
        let caller = Caller::of(extensions);
        let who = caller.identity().map(ToString::to_string);
        let address = extensions.get::<Peer>().map(|peer| peer.address.to_string());
        tracing::warn!(reason = Refused::NotItsOwn.reason(), who, address, "a request was refused: {text}");
        ServiceError::NotItsOwn(text)
    }
}
