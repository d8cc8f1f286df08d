//! Samples on their way to the coordinator: batches one way, acknowledgements the other, again after every break.

use std::sync::Arc;

use fleet_common::id::{AgentId, SlotId};
use fleet_common::wire::{AGENT_HEADER, SLOT_HEADER};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status};

use super::connection::Client;
use super::spool::Spool;
use crate::half::backoff::Backoff;
use crate::metrics::Metrics;

/// Batches that may be under way without an acknowledgement.
const IN_FLIGHT: usize = 8;

/// Sends a spool until everything is acknowledged and nothing more will come. The coordinator's log says from whom.
pub(super) async fn upload(client: Client, spool: Arc<Spool>, sender: (AgentId, SlotId), metrics: Arc<Metrics>) {
    let mut backoff = Backoff::default();
    let compressed = client.clone().send_compressed(CompressionEncoding::Zstd);
    let mut understood = true;
    while !spool.is_done() {
        let client = if understood { &compressed } else { &client };
        match stream(client.clone(), &spool, &sender, &mut backoff).await {
            Ok(()) => return,
            Err(error) => {
                metrics.counts.reconnects.inc();
                // What a coordinator says that is older than compression.
                let status = error.downcast_ref::<Status>();
                understood &= status.is_none_or(|status| status.code() != Code::Unimplemented);
                tracing::debug!(%error, "the sample stream broke");
                let wait = backoff.step_by(&mut rand::rng());
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// One stream's life.
async fn stream(
    mut client: Client,
    spool: &Spool,
    (agent, slot): &(AgentId, SlotId),
    backoff: &mut Backoff,
) -> anyhow::Result<()> {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let mut request = Request::new(ReceiverStream::new(receiver));
    for (key, name) in [(AGENT_HEADER, agent.as_str()), (SLOT_HEADER, slot.as_str())] {
        request.metadata_mut().insert(key, AsciiMetadataValue::try_from(name)?);
    }
    let mut acks = client.samples(request).await?.into_inner();
    // Numbers below this were sent on this stream.
    let mut sent = 0;
    let mut in_flight = 0;
    loop {
        for batch in spool.unsent(sent, IN_FLIGHT - in_flight)? {
            sent = batch.first_number + batch.at_nanos.len() as u64;
            sender.send(batch).await?;
            in_flight += 1;
        }
        if spool.is_done() {
            return Ok(());
        }
        tokio::select! {
            ack = acks.message() => match ack? {
                Some(ack) => {
                    in_flight = in_flight.saturating_sub(1);
                    backoff.reset();
                    spool.acknowledge(ack.number);
                }
                None => anyhow::bail!("the coordinator ended the stream"),
            },
            () = spool.changed.notified() => {}
        }
    }
}
