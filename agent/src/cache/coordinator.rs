//! The coordinator as a source.

use std::time::Duration;

use fleet_common::wire::{MAX_MESSAGE_BYTES, MOST_BLOBS, v1};
use fleet_content::folder::Missing;
use fleet_content::{Item, Manifest};
use fleet_secure::client::Link;
use tonic::{Code, Status};

use super::source::{Patience, Source, Take, Trouble};
use crate::daemon::rpc::content_client::ContentClient;

/// A coordinator that is silent for so long has vanished without a word. Transfers may have to wait for their turn.
const SILENCE: Duration = Duration::from_secs(60);

/// The coordinator.
pub struct Coordinator {
    link: Link,
    patience: Patience,
}

impl Coordinator {
    /// The one behind `link`.
    pub fn new(link: Link, patience: Patience) -> Self {
        Self { link, patience }
    }

    fn client(&self) -> ContentClient<Link> {
        ContentClient::new(self.link.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn answer<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Trouble> {
        self.patience.wait(SILENCE, call)?.map_err(trouble)
    }
}

impl Source for Coordinator {
    fn name(&self) -> String {
        "the coordinator".to_owned()
    }

    fn manifest(&mut self, item: &Item) -> Result<Option<Manifest>, Trouble> {
        // The certificate may be another one by now. Nothing is under way here.
        if let Err(error) = self.link.renew() {
            return Err(Trouble::Passing(error.to_string()));
        }
        let mut client = self.client();
        let reply = client.manifest(v1::ManifestRequest { item: item.to_string() });
        match self.patience.wait(SILENCE, reply)? {
            Ok(reply) => {
                let manifest = Manifest::parse(&reply.into_inner().manifest_json);
                manifest.map(Some).map_err(|e| Trouble::Final(e.to_string()))
            }
            // An earlier version shares nothing.
            Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => Ok(None),
            Err(status) => Err(trouble(status)),
        }
    }

    fn read(&mut self, blobs: &[Missing], take: &mut Take<'_>) -> Result<(), Trouble> {
        let named = blobs.iter().take(MOST_BLOBS);
        let named = named.map(|b| v1::BlobFrom { sha256: b.sha256.to_string(), offset: b.have }).collect();
        let mut client = self.client();
        let mut stream = self.answer(client.read(v1::ReadRequest { blobs: named }))?.into_inner();
        while let Some(chunk) = self.answer(stream.message())? {
            let at = chunk.blob as usize;
            if at >= blobs.len() {
                return Err(Trouble::Final(format!("it sent blob {at} of {}", blobs.len())));
            }
            take(at, &chunk.data)?;
        }
        Ok(())
    }
}

fn trouble(status: Status) -> Trouble {
    let words = status.message().to_owned();
    match status.code() {
        // Until somebody shares it again.
        Code::NotFound | Code::DataLoss => Trouble::Final(words),
        Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented => Trouble::Final(words),
        // A certificate that no longer counts among them: it is renewed, or somebody renews it.
        _ => Trouble::Passing(words),
    }
}
