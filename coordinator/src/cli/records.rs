//! The records that stand under a name at the coordinator: of a campaign, or of an imported set.

use fleet_common::record::Record;
use fleet_common::wire::v1;
use tonic::transport::Channel;

use super::Failure;
use crate::service::rpc::operator_client::OperatorClient;

/// Records as the coordinator holds them.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The stored documents, byte for byte.
    pub documents: Vec<Vec<u8>>,
    /// The same, read.
    pub records: Vec<Record>,
    /// Reports of former holders of a lease, which are not among them: they are outside the statistics.
    pub superseded: usize,
}

/// Asks for them.
pub(super) async fn held(client: &mut OperatorClient<Channel>, name: &str) -> Result<Held, Failure> {
    let mut stream = client.records(v1::RecordsRequest { campaign: name.to_owned() }).await?.into_inner();
    let mut held = Held::default();
    while let Some(message) = stream.message().await? {
        if message.superseded {
            held.superseded += 1;
        } else {
            held.records.push(Record::from_json(&message.record_json).map_err(Failure::failed)?);
            held.documents.push(message.record_json);
        }
    }
    Ok(held)
}
