//! Whom a request comes from.

use std::sync::Arc;

use fleet_common::id::AgentId;
use fleet_secure::identity::Identity;
use tonic::codegen::http;

/// Who calls, where connections say that.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller(Option<Arc<Identity>>);

impl Caller {
    /// With this certificate.
    pub(super) fn bearing(identity: Arc<Identity>) -> Self {
        Self(Some(identity))
    }

    /// What the guard has found out about a request's sender; nobody in particular where nothing is encrypted.
    pub(crate) fn of(extensions: &http::Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// The certificate.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.0.as_deref()
    }

    /// Whether the caller may speak for this agent. Roles were checked before.
    pub(crate) fn may_be(&self, agent: &AgentId) -> bool {
        self.0.as_ref().is_none_or(|who| who.name.as_str() == agent.as_str())
    }

    /// The agent that the caller is, where connections say that.
    pub(crate) fn agent(&self) -> Option<AgentId> {
        self.0.as_ref().and_then(|who| who.name.as_str().parse().ok())
    }
}
