//! Records that arrive from elsewhere: a stream of chunks in, one checked set out.

use fleet_common::id::CampaignName;
use fleet_common::record_set::{Builder, RecordSet};
use fleet_common::wire::{WireError, v1};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::ServiceError;

/// Characters of a file's name that are kept: it is for messages.
const FILE_NAME: usize = 200;

/// Reads and checks all of it. Nothing is kept before all of it is there.
pub(super) async fn receive(
    mut chunks: impl Stream<Item = Result<v1::ImportChunk, Status>> + Unpin,
) -> Result<(CampaignName, String, RecordSet), Status> {
    let mut named: Option<(CampaignName, String)> = None;
    let mut builder = Builder::default();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        let (_, file) = match &mut named {
            Some(named) => named,
            none => {
                let name = chunk.name.parse().map_err(|e| ServiceError::Wire(WireError::Id(e)))?;
                none.insert((name, chunk.file_name.chars().take(FILE_NAME).collect()))
            }
        };
        let file = file.clone();
        // Reading megabytes of JSON takes a while, and this thread serves agents too.
        builder = tokio::task::spawn_blocking(move || {
            for record in chunk.records {
                builder
                    .add(record.line, record.record_json)
                    .map_err(|e| ServiceError::BadRequest(format!("{file}, {e}")))?;
            }
            Ok::<_, ServiceError>(builder)
        })
        .await
        .map_err(|e| ServiceError::Storage(e.to_string()))??;
    }
    let (name, file) = named.ok_or(ServiceError::Wire(WireError::Missing("a name for the imported records")))?;
    let set = builder.finish().ok_or_else(|| ServiceError::BadRequest(format!("{file} holds no record")))?;
    Ok((name, file, set))
}
