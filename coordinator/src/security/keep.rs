//! What a running coordinator does about certificates: lets bearers in, notices what is taken back, renews its own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fleet_common::id::PeerName;
use fleet_secure::identity::{Identity, Role};
use fleet_secure::server::{Bucket, Connection, Gate, GateError, Limits, Peer, Refused};
use fleet_secure::unix_now;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;

use super::office::{Office, OfficeError};
use crate::metrics::Counts;

/// How often the ledger and the own certificate are looked at: what is typed beside a running coordinator counts within
/// a second.
const LOOK: Duration = Duration::from_millis(200);
/// Bearers whose rate is remembered before those that are as good as new are forgotten.
const REMEMBERED: usize = 4096;

/// Certificates of a running coordinator.
pub struct Security {
    gate: Gate,
    office: Mutex<Office>,
    rates: Mutex<HashMap<(Role, PeerName), Bucket>>,
}

/// Why a coordinator cannot be secured.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// The authority's folder cannot be used.
    #[error(transparent)]
    Office(#[from] OfficeError),
    /// Connections cannot be encrypted.
    #[error(transparent)]
    Gate(#[from] GateError),
}

impl Security {
    /// With the authority of a state folder. Refusals are counted in `counts`.
    ///
    /// # Errors
    /// There is no authority, or it is damaged.
    pub fn open(state: &Path, validity: u64, limits: Limits, counts: Arc<Counts>) -> Result<Arc<Self>, SecurityError> {
        let mut office = Office::open(state, validity)?;
        renew_own_if_due(&mut office, unix_now())?;
        let gate = Gate::new(&office.own()?, limits, Arc::new(move |refused| counts.refused(refused)))?;
        gate.deny(office.denied());
        Ok(Arc::new(Self { gate, office: Mutex::new(office), rates: Mutex::default() }))
    }

    /// Connections, each after its handshake.
    pub fn incoming(&self, listener: TcpListener) -> ReceiverStream<std::io::Result<Connection>> {
        self.gate.incoming(listener)
    }

    /// What connections may take.
    pub fn limits(&self) -> &Limits {
        self.gate.limits()
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Open connections by serial number.
    pub(crate) fn connections(&self) -> std::collections::BTreeMap<String, u32> {
        self.gate.connections()
    }

    /// Logs and counts a refusal.
    pub(crate) fn refuse(&self, refused: Refused, peer: &Peer, why: &str) {
        self.gate.refuse(refused, peer, why);
    }

    fn office(&self) -> MutexGuard<'_, Office> {
        self.office.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that waits for the disk.
    pub(crate) async fn at_the_desk<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut Office) -> Result<T, OfficeError> + Send + 'static,
    ) -> Result<T, OfficeError> {
        let security = self.clone();
        let done = tokio::task::spawn_blocking(move || act(&mut security.office())).await;
        done.unwrap_or_else(|e| Err(OfficeError::Unknown(e.to_string())))
    }

    /// Ends the connections of what was taken back; how many there were.
    pub(crate) fn enforce(&self) -> u32 {
        let denied = self.office().denied();
        self.gate.deny(denied)
    }

    /// Whether a bearer may ask once more now.
    pub(super) fn may_ask(&self, who: &Identity) -> bool {
        let (rate, now) = (self.limits().requests, Instant::now());
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.len() >= REMEMBERED {
            rates.retain(|_, bucket| !bucket.is_full(rate, now));
        }
        rates.entry((who.role, who.name.clone())).or_insert_with(|| Bucket::full(rate, now)).take(rate, now)
    }

    /// Notices what others change, and keeps the own certificate fresh, until the coordinator ends.
    pub async fn keep(self: Arc<Self>) {
        let mut shown = self.own_stamp().await;
        let (mut trouble, mut enforced) = (None, 0);
        loop {
            tokio::time::sleep(LOOK).await;
            let looked = self.at_the_desk(|office| {
                renew_own_if_due(office, unix_now())?;
                office.refresh()?;
                Ok(office.denied().len())
            });
            match looked.await {
                // Not whether the ledger has grown since the last look: a request may have read it first.
                Ok(denied) => {
                    trouble = None;
                    if denied != enforced {
                        self.enforce();
                        enforced = denied;
                    }
                }
                // Said once: what was taken back before stays so.
                Err(error) => {
                    let error = error.to_string();
                    if trouble.as_ref() != Some(&error) {
                        tracing::error!(error, "certificates that are taken back now cannot be noticed");
                        trouble = Some(error);
                    }
                }
            }
            let stamp = self.own_stamp().await;
            if stamp != shown {
                shown = stamp;
                match self.at_the_desk(|office| office.own()).await.map(|own| self.gate.reload(&own)) {
                    Ok(Ok(())) => tracing::info!("the coordinator's certificate was replaced"),
                    Ok(Err(error)) => tracing::error!(%error, "the coordinator's new certificate cannot be used"),
                    Err(error) => tracing::error!(%error, "the coordinator's new certificate cannot be used"),
                }
            }
        }
    }

    /// What changes when the coordinator's own certificate is replaced.
    async fn own_stamp(self: &Arc<Self>) -> Option<(SystemTime, u64)> {
        let file = self.office().own_file();
        let meta = tokio::fs::metadata(file).await.ok()?;
        Some((meta.modified().ok()?, std::os::unix::fs::MetadataExt::ino(&meta)))
    }
}

/// The coordinator has the authority beside it: nobody needs to be asked.
fn renew_own_if_due(office: &mut Office, now: u64) -> Result<(), OfficeError> {
    if office.own_renew_at() <= now {
        let own = office.own()?;
        let renewed = office.renew_own(&own.addresses()?, now)?;
        tracing::info!(serial = renewed.serial, until = renewed.not_after, "the coordinator's certificate was renewed");
    }
    Ok(())
}
