//! Data sets on their way from one machine through a coordinator to an agent's cache, over real gRPC.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use fleet_agent::cache::{Cache, CacheError, Coordinator, Patience, Source, Watch};
use fleet_checkpoint::ModelFolder;
use fleet_common::spec::DatasetName;
use fleet_common::units::Bytes;
use fleet_common::wire::v1;
use fleet_content::{Item, Local};
use fleet_coordinator::service::ContentService;
use fleet_coordinator::service::rpc::content_client::ContentClient;
use fleet_coordinator::service::rpc::sharing_client::SharingClient;
use fleet_coordinator::store::Content;
use fleet_dataset::Dataset;
use fleet_dataset::synth::{self, TextureSet, TextureSpec};
use fleet_secure::client::Link;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Server};

/// A coordinator's content, served.
async fn serve(folder: &Path, space: u64) -> String {
    let content = Arc::new(Content::open(folder, Bytes(space)).expect("opens"));
    let service = ContentService::new(content);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = Server::builder().add_service(service.content()).add_service(service.sharing());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy()
}

/// Passes bytes on to `to`, and cuts each of the first `cuts` connections after so many bytes from there.
async fn cutting(to: String, cuts: usize, after: u64, passed: Arc<AtomicU64>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (to, passed, connections) = (to.clone(), passed.clone(), connections.clone());
            tokio::spawn(async move {
                let limit = if connections.fetch_add(1, Ordering::SeqCst) < cuts { after } else { u64::MAX };
                let server = TcpStream::connect(to).await.expect("connects");
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let (mut buffer, mut sent) = (vec![0; 4096], 0);
                while sent < limit {
                    let Ok(read @ 1..) = from_server.read(&mut buffer).await else { break };
                    if to_client.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                    sent += read as u64;
                    passed.fetch_add(read as u64, Ordering::SeqCst);
                }
                up.abort();
            });
        }
    });
    address
}

fn textures(data: &Path) -> Local {
    std::fs::create_dir_all(data).expect("a folder");
    let spec = TextureSpec { seed: 1, set: TextureSet::A, per_class: 12, size: 64 };
    synth::write(&data.join("textures"), &spec, &mut |_, _| ()).expect("writes");
    let name = DatasetName::Textures("textures".into());
    let identity = Dataset::open(&name, data).expect("opens").identify(&mut |_, _| ()).expect("identifies");
    Local::dataset(&name, data, &identity.fingerprint, &mut |_, _| ()).expect("reads")
}

fn chunks(local: &Local, missing: &[v1::BlobFrom]) -> Vec<v1::PutChunk> {
    let of = |blob: &v1::BlobFrom| {
        let place = &local.places[&blob.sha256.parse().expect("a hash")];
        let data = std::fs::read(place).expect("reads")[blob.offset as usize..].to_vec();
        v1::PutChunk { sha256: blob.sha256.clone(), offset: blob.offset, data }
    };
    missing.iter().map(of).collect()
}

async fn offer(client: &mut SharingClient<Channel>, local: &Local) -> Result<v1::OfferReply, tonic::Status> {
    let request = v1::OfferRequest { manifest_json: local.manifest.to_json() };
    Ok(client.offer(request).await?.into_inner())
}

async fn share(address: &str, local: &Local) {
    let mut client = SharingClient::new(channel(address));
    let missing = offer(&mut client, local).await.expect("offered").missing;
    client.put(tokio_stream::iter(chunks(local, &missing))).await.expect("taken");
    assert!(offer(&mut client, local).await.expect("offered").shared);
}

/// What an agent's cache makes of it.
async fn fetch(address: &str, place: &Path, item: &Item) -> Result<String, CacheError> {
    let (item, cache) = (item.clone(), Cache::open(place, Bytes(1 << 30)).expect("opens"));
    let (_waiting, stop) = watch::channel(false);
    let endpoint = fleet_secure::client::endpoint(&format!("http://{address}")).expect("an address");
    let link = Link::new(endpoint, Path::new("")).expect("needs no certificate");
    let source = Coordinator::new(link, Patience::new(tokio::runtime::Handle::current(), stop.clone()));
    let got = tokio::task::spawn_blocking(move || {
        let mut sources: Vec<Box<dyn Source>> = vec![Box::new(source)];
        let kept = cache.get(&item, &mut sources, &Watch { tell: Box::new(|_, _| ()), stop })?;
        Ok(match &kept.dataset {
            Some(name) => {
                let set = Dataset::open(name, &kept.place).expect("opens");
                set.identify(&mut |_, _| ()).expect("identifies").fingerprint
            }
            None => ModelFolder::open(&kept.place).and_then(|m| m.fingerprint(&mut |_, _| ())).expect("a model"),
        })
    });
    got.await.expect("ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_has_what_was_shared_and_a_broken_transfer_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = textures(&dir.path().join("data"));
    let (item, total) = (local.manifest.item.clone(), local.manifest.bytes());
    let address = serve(&dir.path().join("content"), 1 << 30).await;
    share(&address, &local).await;
    let passed = Arc::new(AtomicU64::new(0));
    let cut = cutting(address.clone(), 4, total / 6, passed.clone()).await;
    let fingerprint = fetch(&cut, &dir.path().join("cache"), &item).await.expect("comes");
    assert_eq!(fingerprint, item.digest().as_str());
    // From the beginning after each break it would be more than half of it again.
    let passed = passed.load(Ordering::SeqCst);
    let manifests = 5 * local.manifest.to_json().len() as u64;
    assert!(passed < total + total / 2 + manifests, "{passed} bytes came for {total}");
    // Started anew, a coordinator still has it.
    let again = serve(&dir.path().join("content"), 1 << 30).await;
    fetch(&again, &dir.path().join("other cache"), &item).await.expect("comes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_model_is_shared_as_the_folder_that_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("siglip_base_patch16_224");
    std::fs::create_dir(&root).expect("makes");
    for (name, content) in [("config.json", &b"{}"[..]), ("tokenizer.json", b"{}"), ("model.safetensors", &[5; 70_000])]
    {
        std::fs::write(root.join(name), content).expect("writes");
    }
    let local = Local::model(&ModelFolder::open(&root).expect("a model"), &mut |_, _| ()).expect("reads");
    let item = local.manifest.item.clone();
    let address = serve(&dir.path().join("content"), 1 << 30).await;
    share(&address, &local).await;
    let mut sharer = SharingClient::new(channel(&address));
    let listed = sharer.shared(v1::SharedRequest::default()).await.expect("listed").into_inner().items;
    let [only] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((only.item.as_str(), only.name.as_str()), (item.to_string().as_str(), "siglip_base_patch16_224"));
    let fingerprint = fetch(&address, &dir.path().join("cache"), &item).await.expect("comes");
    assert_eq!(fingerprint, item.digest().as_str());
    // A coordinator that is started again still has it, and one that lost its folder puts it together again.
    std::fs::remove_dir_all(dir.path().join("content/models")).expect("removes");
    let again = serve(&dir.path().join("content"), 1 << 30).await;
    assert!(fetch(&again, &dir.path().join("other"), &item).await.is_err(), "not whole");
    share(&again, &local).await;
    fetch(&again, &dir.path().join("other"), &item).await.expect("comes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_shared_as_a_whole_can_be_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = textures(&dir.path().join("data"));
    let address = serve(&dir.path().join("content"), 1 << 30).await;
    let (mut reader, mut sharer) = (ContentClient::new(channel(&address)), SharingClient::new(channel(&address)));
    let item = local.manifest.item.clone();
    let missing = offer(&mut sharer, &local).await.expect("offered").missing;
    // All but one of the blobs.
    sharer.put(tokio_stream::iter(chunks(&local, &missing[1..]))).await.expect("taken");
    let manifest = |item: &Item| v1::ManifestRequest { item: item.to_string() };
    let refused = reader.manifest(manifest(&item)).await.expect_err("not whole");
    assert_eq!(refused.code(), Code::NotFound);
    let read = |sha256: &str| v1::ReadRequest { blobs: vec![v1::BlobFrom { sha256: sha256.into(), offset: 0 }] };
    let mut stream = reader.read(read(&missing[1].sha256)).await.expect("a stream").into_inner();
    assert_eq!(stream.message().await.expect_err("not shared").code(), Code::NotFound);
    for path in ["../../journal", "/etc/passwd", ""] {
        assert_eq!(reader.read(read(path)).await.expect_err("no hash").code(), Code::InvalidArgument);
    }
    let error = fetch(&address, &dir.path().join("cache"), &item).await.expect_err("nowhere").to_string();
    assert!(error.contains("the coordinator: it does not have it"), "{error}");
    // A blob that nobody offered, one with other content, and one that is not gone on with where it is.
    let put = |sha256: &str, offset, data: &[u8]| {
        tokio_stream::iter([v1::PutChunk { sha256: sha256.into(), offset, data: data.to_vec() }])
    };
    let unknown = sharer.put(put(&"0".repeat(64), 0, b"x")).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
    let mut damaged = chunks(&local, &missing[..1]);
    damaged[0].data[0] ^= 1;
    let wrong = sharer.put(tokio_stream::iter(damaged)).await.expect_err("damaged");
    assert!(wrong.code() == Code::Aborted && wrong.message().contains("what came has the hash"), "{wrong}");
    let gap = sharer.put(put(&missing[0].sha256, 5, b"x")).await.expect_err("a gap");
    assert!(gap.message().contains("expected what follows byte 0"), "{gap}");
    // Half of it, and then the rest.
    let whole = chunks(&local, &missing[..1]).remove(0);
    let half = whole.data.len() / 2;
    sharer.put(put(&whole.sha256, 0, &whole.data[..half])).await.expect("taken");
    let rest = offer(&mut sharer, &local).await.expect("offered").missing;
    assert_eq!(rest.iter().map(|b| b.offset).collect::<Vec<_>>(), [half as u64]);
    sharer.put(tokio_stream::iter(chunks(&local, &rest))).await.expect("taken");
    assert!(offer(&mut sharer, &local).await.expect("offered").shared);
    fetch(&address, &dir.path().join("cache"), &item).await.expect("comes");

    let listed = sharer.shared(v1::SharedRequest::default()).await.expect("listed").into_inner();
    assert!(listed.items.len() == 1 && listed.items[0].whole && listed.bytes > 0, "{listed:?}");
    assert!(sharer.unshare(v1::UnshareRequest { item: item.to_string() }).await.expect("done").into_inner().removed);
    assert_eq!(reader.manifest(manifest(&item)).await.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_go_in_or_is_not_what_it_says_is_not_shared() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = textures(&dir.path().join("data"));
    let small = serve(&dir.path().join("small"), 1000).await;
    let refused = offer(&mut SharingClient::new(channel(&small)), &local).await.expect_err("no room");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("of the 1000 B") && refused.message().contains("--content-space"), "{refused}");

    let address = serve(&dir.path().join("content"), 1 << 30).await;
    let mut sharer = SharingClient::new(channel(&address));
    let name = DatasetName::Textures("textures".into());
    let false_name = "5".repeat(64);
    let lie = Local::dataset(&name, &dir.path().join("data"), &false_name, &mut |_, _| ()).expect("reads");
    let missing = offer(&mut sharer, &lie).await.expect("offered").missing;
    sharer.put(tokio_stream::iter(chunks(&lie, &missing))).await.expect("taken");
    let refused = offer(&mut sharer, &lie).await.expect_err("it is not that");
    assert!(refused.message().contains("their fingerprint is"), "{refused}");
    assert!(sharer.shared(v1::SharedRequest::default()).await.expect("listed").into_inner().items.is_empty());
    let hostile = v1::OfferRequest { manifest_json: b"{\"schema\":\"fleet.manifest/1\"".to_vec() };
    assert_eq!(sharer.offer(hostile).await.expect_err("no manifest").code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_from_the_coordinators_disk_is_said_and_can_be_shared_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = textures(&dir.path().join("data"));
    let item = local.manifest.item.clone();
    let address = serve(&dir.path().join("content"), 1 << 30).await;
    share(&address, &local).await;
    let sha256 = local.manifest.files[0].sha256.as_str();
    let blob = dir.path().join("content/blobs").join(&sha256[..2]).join(sha256);
    for left in [None, Some("shorter")] {
        std::fs::remove_file(&blob).expect("is there");
        left.into_iter().for_each(|text| std::fs::write(&blob, text).expect("writes"));
        let error = fetch(&address, &dir.path().join("cache"), &item).await.expect_err("gone").to_string();
        assert!(error.contains("no longer whole on the coordinator's disk"), "{error}");
        share(&address, &local).await;
    }
    fetch(&address, &dir.path().join("cache"), &item).await.expect("comes");
}

/// Content with all blobs of something in it, none of it shared yet.
fn filled(folder: &Path, local: &Local) -> Content {
    let content = Content::open(folder, Bytes(1 << 30)).expect("opens");
    for blob in content.offer(local.manifest.clone()).expect("offered") {
        let mut partial = content.begin(&blob.sha256, 0).expect("begins").expect("is not there");
        partial.append(&std::fs::read(&local.places[&blob.sha256]).expect("reads")).expect("appends");
        Content::finish(&blob.sha256, partial).expect("is right");
    }
    content
}

#[test]
fn two_that_offer_the_same_at_once_are_both_told_that_it_is_shared() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = textures(&dir.path().join("data"));
    let content = filled(&dir.path().join("content"), &local);
    std::thread::scope(|scope| {
        let offers: Vec<_> = (0..4).map(|_| scope.spawn(|| content.offer(local.manifest.clone()))).collect();
        for offer in offers {
            assert_eq!(offer.join().expect("ends").expect("is what it is called"), []);
        }
    });
    assert!(content.manifest(&local.manifest.item).is_ok());
    assert_eq!(std::fs::read_dir(dir.path().join("content/sets")).expect("there").count(), 1);
}

#[test]
fn what_is_removed_while_it_is_put_together_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = textures(&dir.path().join("data"));
    let item = &local.manifest.item;
    let content = filled(&dir.path().join("content"), &local);
    std::thread::scope(|scope| {
        let offer = scope.spawn(|| content.offer(local.manifest.clone()));
        // Until it is being put together, or is done.
        while std::fs::read_dir(dir.path().join("content/tmp")).expect("there").next().is_none() && !offer.is_finished()
        {
            std::thread::yield_now();
        }
        assert!(content.remove(item).expect("removes"));
        offer.join().expect("ends").expect("it was right");
    });
    assert!(content.manifest(item).is_err() && content.list().0.is_empty());
    for folder in ["sets", "items", "tmp"] {
        let left = std::fs::read_dir(dir.path().join("content").join(folder)).expect("there").count();
        assert_eq!(left, 0, "{folder}");
    }
}
