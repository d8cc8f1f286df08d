//! Data sets and weights → the coordinator, for agents that do not have them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use fleet_common::plan::Resolution;
use fleet_common::spec::{Backbone, DatasetName};
use fleet_common::units::{self, Bytes};
use fleet_common::wire::{MAX_MESSAGE_BYTES, v1};
use fleet_content::{Digest, Item, Local};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::campaign::unresolved;
use super::resolve::Place;
use super::serve::interrupted;
use super::transfer::Show;
use super::weights::backbone;
use super::{Coordinator, Failure, Files, Json, client, print_json, resolve};
use crate::service::rpc::sharing_client::SharingClient;

/// Bytes of a file in one message.
const CHUNK: usize = 256 << 10;
/// Breaks in a row, without anything having come through, after which a command gives up.
const TRIES: u32 = 8;
/// The first pause after a break; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(500);

/// `fleet data share`.
#[derive(Debug, Args)]
pub(super) struct Data {
    /// cifar100, dtd, textures…, or a path to an image folder (with a '/')
    #[arg(value_name = "DATA SET")]
    name: String,
    /// Folder of the data sets
    #[arg(long, env = "FLEET_DATA", value_name = "DIR", default_value = "data")]
    data: PathBuf,
    #[command(flatten)]
    coordinator: Coordinator,
}

impl Data {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let name = DatasetName::try_from(self.name).map_err(Failure::usage)?;
        let identity = resolve::identify(&name, &self.data).map_err(Failure::usage)?;
        let mut sharer = Sharer::connect(&self.coordinator.coordinator).await?;
        sharer.uninterrupted(vec![Wanted::Dataset(name, self.data, identity.fingerprint)]).await
    }
}

/// `fleet weights share`.
#[derive(Debug, Args)]
pub(super) struct Weights {
    /// Whose
    #[arg(value_name = "BACKBONE", required = true, value_parser = backbone)]
    backbones: Vec<Backbone>,
    /// Folder of the weights, one BACKBONE.safetensors (or .pth, .pth.tar, .bin) each, or a folder BACKBONE/
    #[arg(long, env = "FLEET_WEIGHTS", value_name = "DIR", default_value = "weights")]
    weights: PathBuf,
    #[command(flatten)]
    coordinator: Coordinator,
}

impl Weights {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut wanted = Vec::new();
        for backbone in self.backbones {
            let place = resolve::weights_place(backbone, Some(&self.weights))?.ok_or_else(|| {
                let (name, dir) = (backbone.name(), self.weights.display());
                Failure::usage(format!("the weights {name} are not in {dir}; `fleet weights list` says where they are"))
            })?;
            wanted.push(Wanted::Weights(backbone, place, None));
        }
        Sharer::connect(&self.coordinator.coordinator).await?.uninterrupted(wanted).await
    }
}

/// `fleet shared`.
#[derive(Debug, Args)]
pub(super) struct Listing {
    /// Removes this item instead, as the list names it; agents that have it keep it
    #[arg(long, value_name = "ITEM")]
    remove: Option<Item>,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

impl Listing {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = Sharer::connect(&self.coordinator.coordinator).await?.sharing;
        if let Some(item) = self.remove {
            let removed = client.unshare(v1::UnshareRequest { item: item.to_string() }).await?.into_inner().removed;
            if !removed {
                return Err(Failure::usage(format!("{item} is not shared; `fleet shared` lists what is")));
            }
            say!("{item}: removed");
            return Ok(());
        }
        let reply = client.shared(v1::SharedRequest::default()).await?.into_inner();
        if self.json.json {
            let items: Vec<_> = reply.items.iter().map(|i| {
                serde_json::json!({ "item": i.item, "name": i.name, "files": i.files, "bytes": i.bytes, "whole": i.whole })
            }).collect();
            print_json(&serde_json::json!({
                "schema": "fleet.shared/1", "items": items, "bytes": reply.bytes, "space": reply.space,
            }));
            return Ok(());
        }
        for i in &reply.items {
            let state = if i.whole { "" } else { ", not all of it has come" };
            say!("{}\n  {}: {} files, {}{state}", i.item, i.name, i.files, Bytes(i.bytes));
        }
        say!("{} of {} for shared content in use", Bytes(reply.bytes), Bytes(reply.space));
        Ok(())
    }
}

/// Shares what a campaign needs, and is not there yet.
pub(super) async fn campaign(coordinator: &str, files: &Files, resolution: &Resolution) -> Result<(), Failure> {
    let mut wanted = Vec::new();
    for (name, identity) in &resolution.datasets {
        // Before anything is copied that would be copied in vain.
        let identity = identity.as_ref().map_err(|why| unresolved(name, why))?;
        wanted.push(Wanted::Dataset(name.clone(), files.data.clone(), identity.fingerprint.clone()));
    }
    for (backbone, sha256) in &resolution.weights {
        if let Some(place) = resolve::weights_place(*backbone, files.weights.as_deref())? {
            wanted.push(Wanted::Weights(*backbone, place, Some(sha256.clone())));
        }
    }
    Sharer::connect(coordinator).await?.quietly().uninterrupted(wanted).await
}

/// Something to share.
enum Wanted {
    Dataset(DatasetName, PathBuf, String),
    /// With its hash, where that is known.
    Weights(Backbone, Place, Option<String>),
}

impl Wanted {
    fn label(&self) -> &str {
        match self {
            Self::Dataset(name, ..) => name.label(),
            Self::Weights(backbone, ..) => backbone.name(),
        }
    }

    fn item(&self) -> Option<Item> {
        match self {
            Self::Dataset(_, _, fingerprint) => fingerprint.parse().ok().map(Item::Dataset),
            Self::Weights(_, place, sha256) => {
                let digest = sha256.as_ref()?.parse().ok()?;
                Some(if let Place::Model(_) = place { Item::Model(digest) } else { Item::Weights(digest) })
            }
        }
    }

    fn local(&self, tell: &mut dyn FnMut(u64, u64)) -> Result<Local, Failure> {
        let local = match self {
            Self::Dataset(name, data, fingerprint) => Local::dataset(name, data, fingerprint, tell),
            Self::Weights(_, Place::File(file), _) => Local::weights(file, tell),
            Self::Weights(_, Place::Model(folder), _) => Local::model(folder, tell),
        };
        local.map_err(|e| Failure::usage(format!("{} cannot be shared: {e}", self.label())))
    }
}

/// Brings things to a coordinator.
struct Sharer {
    sharing: SharingClient<Channel>,
    /// What is there already needs no words.
    quiet: bool,
}

impl Sharer {
    async fn connect(coordinator: &str) -> Result<Self, Failure> {
        let channel = client::channel(coordinator).await?;
        let sharing = SharingClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { sharing, quiet: false })
    }

    fn quietly(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Shares all of them, unless Ctrl-C comes first.
    async fn uninterrupted(&mut self, wanted: Vec<Wanted>) -> Result<(), Failure> {
        let work = async {
            for wanted in wanted {
                self.share(Arc::new(wanted)).await?;
            }
            Ok(())
        };
        tokio::select! {
            done = work => done,
            () = interrupted() => Err(Failure::Interrupted(
                "interrupted; what the coordinator has is kept, and the same command goes on".to_owned()
            )),
        }
    }

    async fn share(&mut self, wanted: Arc<Wanted>) -> Result<(), Failure> {
        let mut show = Show::new(wanted.label());
        if let Some(item) = wanted.item()
            && self.is_shared(&item).await?
        {
            if !self.quiet {
                show.line("the coordinator has it already");
            }
            return Ok(());
        }
        let from = wanted.clone();
        let local = Arc::new(reading(&mut show, move |tell| from.local(tell)).await?);
        let (item, total) = (&local.manifest.item, local.manifest.bytes());
        // Breaks in a row, and what the coordinator had after the latest answer.
        let (mut tries, mut before) = (0, None);
        loop {
            let why = match self.offer(&local).await {
                Ok(None) => break,
                Ok(Some((missing, have))) => {
                    tries = if before == Some(have) { tries } else { 0 };
                    before = Some(have);
                    match self.put(local.clone(), missing, have, &mut show).await {
                        Ok(()) => Status::unavailable("not all of it arrived"),
                        Err(status) => status,
                    }
                }
                Err(status) => status,
            };
            if !is_passing(&why) {
                return Err(refused(&wanted, &why));
            }
            tries += 1;
            if tries >= TRIES {
                return Err(Failure::failed(format!(
                    "{}: {}; tried {tries} times without getting on. What the coordinator has is kept, and the same \
                     command goes on",
                    wanted.label(),
                    why.message()
                )));
            }
            // After the first, which may only have brought a part of the files, there is no pause.
            if tries > 1 {
                let pause = PAUSE.saturating_mul(1 << (tries - 2).min(4));
                show.line(&format!("{}; trying again in {}", why.message(), units::duration(pause.as_secs_f64())));
                tokio::time::sleep(pause).await;
            }
        }
        show.line(&format!("agents can have it from the coordinator ({}, {item})", Bytes(total)));
        Ok(())
    }

    async fn is_shared(&mut self, item: &Item) -> Result<bool, Failure> {
        let request = v1::SharedRequest { items: vec![item.to_string()] };
        let shared = self.sharing.shared(request).await?.into_inner().items;
        Ok(shared.iter().any(|s| s.whole && s.item == item.to_string()))
    }

    /// Offers it; what the coordinator lacks, and bytes that it has of those files that it named.
    async fn offer(&mut self, local: &Local) -> Result<Option<(Vec<v1::BlobFrom>, u64)>, Status> {
        let offered = self.sharing.offer(v1::OfferRequest { manifest_json: local.manifest.to_json() }).await?;
        let v1::OfferReply { shared, missing } = offered.into_inner();
        if shared {
            return Ok(None);
        }
        if missing.is_empty() {
            return Err(Status::internal("the coordinator lacks nothing and does not share it"));
        }
        let sizes: BTreeMap<String, u64> =
            local.manifest.blobs().into_iter().map(|(sha256, bytes)| (sha256.into(), bytes)).collect();
        let to_come: u64 =
            missing.iter().map(|m| sizes.get(&m.sha256).map_or(0, |bytes| bytes.saturating_sub(m.offset))).sum();
        Ok(Some((missing, local.manifest.bytes().saturating_sub(to_come))))
    }

    /// Brings blobs.
    async fn put(
        &mut self,
        local: Arc<Local>,
        missing: Vec<v1::BlobFrom>,
        have: u64,
        show: &mut Show,
    ) -> Result<(), Status> {
        let (chunks, receiver) = mpsc::channel::<v1::PutChunk>(4);
        let (told, mut sent) = mpsc::unbounded_channel();
        let total = local.manifest.bytes();
        let reading = tokio::task::spawn_blocking(move || {
            missing.iter().try_for_each(|blob| {
                send(&local, blob, &chunks, &|bytes| {
                    // Nobody has to watch.
                    let _ = told.send(bytes);
                })
            })
        });
        let mut putting = std::pin::pin!(self.sharing.put(ReceiverStream::new(receiver)));
        let mut done = have;
        let answer = loop {
            tokio::select! {
                answer = &mut putting => break answer,
                Some(bytes) = sent.recv() => {
                    done += bytes;
                    show.amount("", done.min(total), Some(total));
                }
            }
        };
        // A file that cannot be read here is the reason for whatever the coordinator says.
        match reading.await {
            Ok(Err(Some(status))) => Err(status),
            _ => answer.map(|_| ()),
        }
    }
}

/// Runs what reads files beside the runtime, and shows how far it is: it may take long, and Ctrl-C has to be heard.
async fn reading<T: Send + 'static>(
    show: &mut Show,
    read: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (told, mut amounts) = mpsc::channel(1);
    let mut reading = tokio::task::spawn_blocking(move || {
        read(&mut |done, of| {
            // What there is no room for, the next one tells.
            let _ = told.try_send((done, of));
        })
    });
    loop {
        tokio::select! {
            read = &mut reading => {
                return read.unwrap_or_else(|e| Err(Failure::failed(format!("reading ended unexpectedly: {e}"))));
            }
            Some((done, of)) = amounts.recv() => show.amount("reading ", done, Some(of)),
        }
    }
}

/// Sends a file's rest. `Err(None)`: nobody listens any more.
fn send(
    local: &Local,
    blob: &v1::BlobFrom,
    chunks: &mpsc::Sender<v1::PutChunk>,
    told: &dyn Fn(u64),
) -> Result<(), Option<Status>> {
    let place = blob.sha256.parse::<Digest>().ok().and_then(|sha256| local.places.get(&sha256));
    let place = place.ok_or_else(|| Some(Status::internal("the coordinator asks for what was not offered")))?;
    let failed = |e: std::io::Error| Some(Status::invalid_argument(format!("cannot read {}: {e}", place.display())));
    let mut file = File::open(place).map_err(failed)?;
    file.seek(SeekFrom::Start(blob.offset)).map_err(failed)?;
    let mut offset = blob.offset;
    // An empty file has one chunk, too.
    let mut first = true;
    loop {
        let mut data = vec![0; CHUNK];
        let read = match file.read(&mut data) {
            Ok(read) => read,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(failed(e)),
        };
        if read == 0 && !first {
            return Ok(());
        }
        data.truncate(read);
        let sha256 = if first { blob.sha256.clone() } else { String::new() };
        chunks.blocking_send(v1::PutChunk { sha256, offset, data }).map_err(|_| None)?;
        told(read as u64);
        offset += read as u64;
        first = false;
    }
}

/// Whether trying again may help.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Aborted | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled
    )
}

fn refused(wanted: &Wanted, why: &Status) -> Failure {
    Failure::failed(format!("{} cannot be shared: {}", wanted.label(), why.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_reads_files_still_hears_an_interruption() {
        let (go_on, wait) = std::sync::mpsc::channel();
        let mut show = Show::new("files");
        let read = reading(&mut show, move |tell| {
            tell(1, 2);
            // Long enough to be noticed, should nothing else be done meanwhile.
            Ok(wait.recv_timeout(Duration::from_secs(10)))
        });
        tokio::select! {
            biased;
            _ = read => panic!("ended before anybody let it"),
            () = std::future::ready(()) => {}
        }
        // Its runtime waits for it.
        go_on.send(()).expect("it still reads");
    }
}
