//! How a command fails, and with which exit code.

use std::process::ExitCode;

use tonic::{Code, Status};

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// Something failed.
    Failed(String),
    /// What was given is not right.
    Usage(String),
    /// There is no coordinator at that address.
    Unreachable(String),
    /// The user interrupted.
    Interrupted(String),
    /// The campaign ended with failed trials; that was already said.
    FailedTrials,
}

impl Failure {
    /// Something failed.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// What was given is not right.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// What to say.
    pub(super) fn message(&self) -> Option<&str> {
        match self {
            Self::Failed(m) | Self::Usage(m) | Self::Unreachable(m) | Self::Interrupted(m) => Some(m),
            Self::FailedTrials => None,
        }
    }

    /// The exit code, as the help lists them.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) | Self::FailedTrials => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Interrupted(_) => 130,
        })
    }
}

impl From<Status> for Failure {
    /// What the coordinator answered.
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => Self::Usage(message),
            _ if fleet_secure::client::explain(&status).is_some() => {
                let why = fleet_secure::client::explain(&status).unwrap_or_default();
                Self::Unreachable(format!("the coordinator ended the connection: {why}"))
            }
            Code::OutOfRange => Self::Usage(format!("the message is larger than the coordinator accepts: {message}")),
            Code::PermissionDenied | Code::Unauthenticated | Code::ResourceExhausted | Code::AlreadyExists => {
                Self::Failed(format!("the coordinator refuses: {message}"))
            }
            Code::Unavailable => {
                Self::Unreachable(format!("the coordinator cannot be reached or cannot work now: {message}"))
            }
            Code::Internal if message.contains("h2 protocol error") => Self::Unreachable(format!(
                "whatever answers there does not speak as a coordinator does ({message}); if it encrypts its connections, \
                 its address is https://HOST:PORT"
            )),
            // What tonic makes of a connection that broke in the middle of an answer.
            Code::Unknown | Code::Cancelled if std::error::Error::source(&status).is_some() => {
                Self::Unreachable(format!(
                    "the connection to the coordinator broke: {message} (one with certificates is reached at https://, not \
                     http://)"
                ))
            }
            _ => Self::Failed(format!("the coordinator failed: {message}")),
        }
    }
}
