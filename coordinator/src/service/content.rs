//! Data sets and weights: given to agents, taken from operators.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_common::wire::{CONTENT_CHUNK_BYTES, MAX_MESSAGE_BYTES, MOST_BLOBS, MOST_PUT_BYTES, v1};
use fleet_content::{ContentError, Digest, Item, Manifest, Partial};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::operator::Answers;
use super::rpc::content_server::{self, ContentServer};
use super::rpc::sharing_server::{Sharing, SharingServer};
use crate::security::Caller;
use crate::store::{Content, Refused};

/// Transfers at a time, each of which has a thread while it reads or writes. More wait for their turn.
const MOST_TRANSFERS: usize = 64;
/// Of them, those of one agent: one per slot of a large machine, and some that it has given up.
const MOST_OF_ONE: u32 = 16;
/// How many bytes come between looks at the disk: all transfers together bring less than is left free meanwhile.
const LOOK_EVERY: usize = 4 << 20;
/// A sender that is silent for so long is gone, and what it holds is somebody else's. So is a reader that takes nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// The services for content.
#[derive(Clone)]
pub struct ContentService {
    content: Arc<Content>,
    turns: Turns,
}

impl ContentService {
    /// Services on a folder of shared content.
    pub fn new(content: Arc<Content>) -> Self {
        Self { content, turns: Turns::new() }
    }

    /// What agents ask.
    pub fn content(&self) -> ContentServer<Self> {
        ContentServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// What people's commands ask.
    pub fn sharing(&self) -> SharingServer<Self> {
        SharingServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// Turns of transfers, so many at a time, and so many of each caller.
#[derive(Clone)]
struct Turns {
    all: Arc<Semaphore>,
    /// Of each caller that has some.
    of: Arc<Mutex<HashMap<String, u32>>>,
}

/// A turn, until it is dropped.
struct Turn {
    _one: OwnedSemaphorePermit,
    _of: Share,
}

/// Counts as one of its caller's.
struct Share {
    of: Arc<Mutex<HashMap<String, u32>>>,
    who: Option<String>,
}

impl Turns {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(MOST_TRANSFERS)), of: Arc::default() }
    }

    /// Waits for a turn. A caller that has too many gets none, so that others do.
    async fn take(&self, caller: Caller) -> Result<Turn, Status> {
        let share = self.share(caller.identity().map(ToString::to_string))?;
        let one = self.all.clone().acquire_owned().await.map_err(|e| Status::internal(e.to_string()))?;
        Ok(Turn { _one: one, _of: share })
    }

    /// Where connections do not say who calls, nobody is counted.
    fn share(&self, who: Option<String>) -> Result<Share, Status> {
        if let Some(who) = &who {
            let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
            let count = of.entry(who.clone()).or_default();
            if *count >= MOST_OF_ONE {
                let text = format!("{who} has {MOST_OF_ONE} transfers already; wait until one ends");
                return Err(Status::resource_exhausted(text));
            }
            *count += 1;
        }
        Ok(Share { of: self.of.clone(), who })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(who) = &self.who else { return };
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of.get_mut(who) {
            *count -= 1;
            if *count == 0 {
                of.remove(who);
            }
        }
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::NotShared(_) | Refused::UnknownBlob(_) => Self::not_found(text),
            Refused::Lost(_) => Self::data_loss(text),
            Refused::NoSpace { .. } => Self::failed_precondition(text),
            Refused::DiskFull { .. } | Refused::Content(ContentError::DiskFull { .. }) => {
                Self::resource_exhausted(text)
            }
            Refused::Busy(_) | Refused::Gap { .. } | Refused::Wrong { .. } => Self::aborted(text),
            Refused::Content(ContentError::Manifest(_) | ContentError::TooLong { .. }) => Self::invalid_argument(text),
            Refused::Content(ContentError::Differs { .. }) => Self::failed_precondition(text),
            Refused::Content(_) => Self::unavailable(text),
        }
    }
}

fn item(text: String) -> Result<Item, Status> {
    Item::try_from(text).map_err(Status::invalid_argument)
}

fn digest(text: String) -> Result<Digest, Status> {
    Digest::try_from(text).map_err(Status::invalid_argument)
}

/// Runs what waits for the disk beside the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Status::internal(e.to_string()))?.map_err(Status::from)
}

#[tonic::async_trait]
impl content_server::Content for ContentService {
    async fn manifest(&self, request: Request<v1::ManifestRequest>) -> Result<Response<v1::ManifestReply>, Status> {
        let item = item(request.into_inner().item)?;
        let content = self.content.clone();
        let manifest_json = blocking(move || content.manifest(&item)).await?;
        Ok(Response::new(v1::ManifestReply { manifest_json }))
    }

    type ReadStream = Answers<v1::ContentChunk>;

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let caller = Caller::of(request.extensions());
        let blobs = request.into_inner().blobs;
        if blobs.len() > MOST_BLOBS {
            return Err(Status::invalid_argument(format!(
                "expected at most {MOST_BLOBS} blobs, found {}",
                blobs.len()
            )));
        }
        let wanted: Vec<(Digest, u64)> =
            blobs.into_iter().map(|b| Ok((digest(b.sha256)?, b.offset))).collect::<Result<_, Status>>()?;
        let turn = self.turns.take(caller).await?;
        // Few, so that an agent that does not read is slowed down rather than served ahead.
        let (sender, receiver) = mpsc::channel(4);
        let (content, runtime) = (self.content.clone(), Handle::current());
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let give = |chunk| runtime.block_on(sender.send_timeout(chunk, SILENCE)).is_ok();
            for (number, (sha256, offset)) in wanted.into_iter().enumerate() {
                let sent = content.read(&sha256).map_err(Status::from).and_then(|(file, bytes)| {
                    send(file, offset, bytes, &mut |data| {
                        let chunk = v1::ContentChunk { blob: number as u32, data };
                        give(Ok(chunk))
                    })
                });
                match sent {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(status) => {
                        give(Err(status));
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Sends what follows `offset`; `false` if nobody listens any more.
fn send(mut file: File, offset: u64, bytes: u64, to: &mut dyn FnMut(Vec<u8>) -> bool) -> Result<bool, Status> {
    let failed = |e: std::io::Error| Status::unavailable(format!("the coordinator's disk refuses: {e}"));
    if offset > bytes {
        return Err(Status::invalid_argument(format!("byte {offset} is asked for of a blob of {bytes} bytes")));
    }
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut left = bytes - offset;
    while left > 0 {
        let mut data = vec![0; CONTENT_CHUNK_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX))];
        match file.read(&mut data) {
            Ok(0) => return Err(Status::data_loss("a blob is shorter than it was; share it again")),
            Ok(read) => {
                data.truncate(read);
                left -= read as u64;
                if !to(data) {
                    return Ok(false);
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(true)
}

#[tonic::async_trait]
impl Sharing for ContentService {
    async fn offer(&self, request: Request<v1::OfferRequest>) -> Result<Response<v1::OfferReply>, Status> {
        let bytes = request.into_inner().manifest_json;
        let content = self.content.clone();
        let missing = blocking(move || content.offer(Manifest::parse(&bytes)?)).await?;
        let shared = missing.is_empty();
        let missing = missing.into_iter().take(MOST_BLOBS);
        let missing = missing.map(|m| v1::BlobFrom { sha256: m.sha256.into(), offset: m.have }).collect();
        Ok(Response::new(v1::OfferReply { shared, missing }))
    }

    async fn put(&self, request: Request<Streaming<v1::PutChunk>>) -> Result<Response<v1::PutReply>, Status> {
        let _turn = self.turns.take(Caller::of(request.extensions())).await?;
        let mut chunks = request.into_inner();
        let mut taking = Taking::default();
        loop {
            let next = tokio::time::timeout(SILENCE, chunks.message()).await;
            let chunk = next.map_err(|_| Status::deadline_exceeded("nothing came for a minute"))??;
            let Some(chunk) = chunk else { break };
            if chunk.data.len() > MOST_PUT_BYTES {
                let text = format!("expected at most {MOST_PUT_BYTES} bytes in a chunk, found {}", chunk.data.len());
                return Err(Status::invalid_argument(text));
            }
            let content = self.content.clone();
            taking = blocking(move || taking.take(&content, chunk)).await?;
        }
        Ok(Response::new(v1::PutReply {}))
    }

    async fn shared(&self, request: Request<v1::SharedRequest>) -> Result<Response<v1::SharedReply>, Status> {
        let only = request.into_inner().items;
        let only: BTreeSet<Item> = only.into_iter().map(item).collect::<Result<_, _>>()?;
        let content = self.content.clone();
        let (items, bytes, space) = blocking(move || Ok(content.list())).await?;
        let items = items.into_iter().filter(|s| only.is_empty() || only.contains(&s.item)).map(|s| v1::SharedItem {
            item: s.item.to_string(),
            name: s.name,
            files: s.files,
            bytes: s.bytes,
            whole: s.whole,
        });
        Ok(Response::new(v1::SharedReply { items: items.collect(), bytes, space }))
    }

    async fn unshare(&self, request: Request<v1::UnshareRequest>) -> Result<Response<v1::UnshareReply>, Status> {
        let item = item(request.into_inner().item)?;
        let content = self.content.clone();
        let removed = blocking(move || Ok(content.remove(&item)?)).await?;
        Ok(Response::new(v1::UnshareReply { removed }))
    }
}

/// What a stream of blobs is at.
#[derive(Default)]
struct Taking {
    /// The blob, and what has come of it; nothing where all of it was there.
    blob: Option<(Digest, Option<Partial>)>,
    /// Bytes that have come since the disk was looked at.
    unseen: usize,
}

impl Taking {
    fn take(mut self, content: &Content, chunk: v1::PutChunk) -> Result<Self, Refused> {
        if !chunk.sha256.is_empty() {
            let sha256 = Digest::try_from(chunk.sha256).map_err(ContentError::Manifest)?;
            // Dropped first, what has come of another is kept.
            self.blob = None;
            self.blob = Some((sha256.clone(), content.begin(&sha256, chunk.offset)?));
        }
        let Some((sha256, partial)) = &mut self.blob else {
            return Err(ContentError::Manifest("the first chunk names no blob".to_owned()).into());
        };
        let Some(open) = partial else { return Ok(self) };
        if open.len() != chunk.offset {
            return Err(Refused::Gap { sha256: sha256.clone(), expected: open.len(), found: chunk.offset });
        }
        self.unseen += chunk.data.len();
        if self.unseen >= LOOK_EVERY {
            // Others write to it, too.
            content.spare(open.lacks())?;
            self.unseen = 0;
        }
        open.append(&chunk.data)?;
        if open.lacks() == 0
            && let Some(whole) = partial.take()
        {
            Content::finish(sha256, whole)?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_has_so_many_transfers_and_others_do_not_feel_it() {
        let turns = Turns::new();
        let of = |who: &str| turns.share(Some(who.to_owned()));
        let mut held: Vec<Share> = (0..MOST_OF_ONE).map(|_| of("agent a").expect("a turn")).collect();
        assert_eq!(of("agent a").err().map(|s| s.code()), Some(tonic::Code::ResourceExhausted));
        assert!(of("agent b").is_ok() && turns.share(None).is_ok());
        held.pop();
        assert!(of("agent a").is_ok());
        drop(held);
        assert!(turns.of.lock().expect("free").is_empty(), "nothing is remembered");
    }
}
