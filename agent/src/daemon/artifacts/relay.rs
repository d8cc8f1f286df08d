//! Artifacts through the coordinator: in parts, going on where a stream broke.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use fleet_artifacts::{Name, Pace, sha256_of};
use fleet_common::wire::{MAX_MESSAGE_BYTES, v1};
use fleet_secure::client::Link;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, SeekFrom};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{Whose, pause};
use crate::daemon::connection::answer;
use crate::daemon::rpc::artifacts_client::ArtifactsClient;
use crate::half::backoff::Backoff;

/// Bytes per message.
const PART: usize = 256 << 10;
/// Messages under way.
const AHEAD: usize = 4;
/// So many breaks in a row without progress are the end, for now.
const TRIES: u32 = 4;
/// A coordinator that takes or sends nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);

pub(super) fn client(channel: Link) -> ArtifactsClient<Link> {
    ArtifactsClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Sends a file.
pub(super) async fn put(
    client: ArtifactsClient<Link>,
    name: &Name,
    file: &Path,
    whose: &Whose,
    pace: &Pace,
) -> anyhow::Result<u64> {
    let bytes = tokio::fs::metadata(file).await.with_context(|| file.display().to_string())?.len();
    let (mut backoff, mut tries, mut furthest) = (Backoff::default(), 0, 0);
    loop {
        let asked = v1::StandingRequest { name: name.to_string() };
        let outcome = match answer(client.clone().standing(asked)).await {
            Ok(standing) => {
                let standing = standing.into_inner();
                if standing.complete {
                    return Ok(bytes);
                }
                if standing.bytes > furthest {
                    (furthest, tries) = (standing.bytes, 0);
                }
                let upload = v1::ArtifactUpload {
                    name: name.to_string(),
                    bytes,
                    offset: standing.bytes,
                    trial: Some((&whose.trial).into()),
                    attempt: whose.attempt.get(),
                };
                send(client.clone(), upload, file, pace).await
            }
            Err(status) => Err(status),
        };
        tries += 1;
        match outcome {
            Ok(standing) if standing.complete => return Ok(bytes),
            // What will not be otherwise the next time.
            Err(status)
                if matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented) =>
            {
                bail!("{}", status.message());
            }
            Err(status) if tries >= TRIES => bail!("{}", status.message()),
            Ok(_) if tries >= TRIES => bail!("the coordinator has only a part of it"),
            _ => pause(&mut backoff).await,
        }
    }
}

/// One stream's life.
async fn send(
    mut client: ArtifactsClient<Link>,
    upload: v1::ArtifactUpload,
    file: &Path,
    pace: &Pace,
) -> Result<v1::ArtifactStanding, tonic::Status> {
    let here = |e: std::io::Error| tonic::Status::unknown(format!("{}: {e}", file.display()));
    let mut open = File::open(file).await.map_err(here)?;
    open.seek(SeekFrom::Start(upload.offset)).await.map_err(here)?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    let reading = async move {
        // The stream's end is the reader's.
        let sender = sender;
        let mut first = Some(upload);
        loop {
            let mut data = Vec::with_capacity(PART);
            (&mut open).take(PART as u64).read_to_end(&mut data).await.map_err(here)?;
            if data.is_empty() && first.is_none() {
                return Ok(());
            }
            pace.wait(data.len()).await;
            let part = v1::ArtifactPart { upload: first.take(), data };
            match tokio::time::timeout(SILENCE, sender.send(part)).await {
                Ok(Ok(())) => {}
                // The coordinator has ended the stream; its answer says why.
                Ok(Err(_)) => return Ok(()),
                Err(_) => return Err(tonic::Status::deadline_exceeded("the coordinator takes nothing")),
            }
        }
    };
    let put = client.put(ReceiverStream::new(receiver));
    let ((), reply) = tokio::try_join!(reading, put)?;
    Ok(reply.into_inner())
}

/// Gets a file, into `TARGET.partial` until it is whole and right.
pub(super) async fn get(client: ArtifactsClient<Link>, name: &Name, target: &Path) -> anyhow::Result<u64> {
    let mut partial = target.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let length = async || tokio::fs::metadata(partial).await.map_or(0, |m| m.len());
    let mut is_fresh = length().await == 0;
    let (mut backoff, mut tries, mut furthest) = (Backoff::default(), 0, 0);
    let bytes = loop {
        let outcome = receive(client.clone(), name, length().await, partial).await;
        tries += 1;
        match outcome {
            Ok(whole) if length().await == whole => {
                let path = partial.to_owned();
                let found = tokio::task::spawn_blocking(move || sha256_of(&path)).await??;
                if found == *name.sha256() {
                    break whole;
                }
                tokio::fs::remove_file(partial).await?;
                ensure!(!is_fresh, "{name} is damaged: expected content with the SHA-256 of its name, found {found}");
                is_fresh = true;
            }
            // Another one's part.
            Err(status) if status.code() == Code::FailedPrecondition => {
                tokio::fs::remove_file(partial).await?;
                is_fresh = true;
            }
            Err(status) if status.code() == Code::NotFound || tries >= TRIES => bail!("{}", status.message()),
            Ok(_) if tries >= TRIES => bail!("the coordinator sends only a part of it"),
            _ => pause(&mut backoff).await,
        }
        let now = length().await;
        if now > furthest {
            (furthest, tries) = (now, 0);
        }
    };
    tokio::fs::rename(partial, target).await?;
    Ok(bytes)
}

/// Appends what comes; returns the length of the whole.
async fn receive(
    mut client: ArtifactsClient<Link>,
    name: &Name,
    from: u64,
    partial: &Path,
) -> Result<u64, tonic::Status> {
    let here = |e: std::io::Error| tonic::Status::unknown(format!("{}: {e}", partial.display()));
    let request = v1::GetArtifactRequest { name: name.to_string(), from };
    let mut stream = answer(client.get(request)).await?.into_inner();
    let mut file = OpenOptions::new().create(true).append(true).open(partial).await.map_err(here)?;
    let (mut whole, mut length) = (0, from);
    let outcome = loop {
        let message = tokio::time::timeout(SILENCE, stream.message()).await;
        match message.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("the coordinator sends nothing"))) {
            Ok(Some(part)) => {
                whole = part.whole.unwrap_or(whole);
                length += part.data.len() as u64;
                if length > whole {
                    break Err(tonic::Status::failed_precondition("more came than was announced"));
                }
                file.write_all(&part.data).await.map_err(here)?;
            }
            Ok(None) => break Ok(whole),
            Err(status) => break Err(status),
        }
    };
    file.flush().await.map_err(here)?;
    file.sync_all().await.map_err(here)?;
    outcome
}
