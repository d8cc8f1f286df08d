//! A copy of all that is kept, on its way out.

use std::collections::HashMap;
use std::io::Read as _;

use fleet_common::wire::v1;

use super::operator::Answers;
use super::samples::answers;
use super::{Service, ServiceError};
use crate::store::Copying;

/// Bytes of a piece.
const PIECE: usize = 512 << 10;

impl Service {
    /// The files of a copy, without those that are there already.
    pub(super) async fn backed_up(&self, request: v1::BackupRequest) -> Result<Answers<v1::BackupPart>, ServiceError> {
        let manifest = self.driver.manifest().await?;
        let sequence = manifest.sequence;
        tracing::info!(event = sequence, "a backup begins");
        let have: HashMap<String, u64> = request.have.into_iter().map(|file| (file.name, file.bytes)).collect();
        Ok(answers(move |send| {
            let storage = |e: std::io::Error| ServiceError::Storage(format!("the backup cannot go on: {e}"));
            let files = match manifest.files() {
                Ok(files) => files,
                Err(error) => {
                    send(Err(storage(error)));
                    return;
                }
            };
            let mut plan = v1::BackupPlan { sequence, files: files.len() as u64, ..Default::default() };
            plan.bytes = files.iter().map(|f| f.bytes).sum();
            // What is only appended to under a name of its own is the same if it is as long; the small rest is sent
            // again.
            let is_there = |f: &Copying| {
                let is_kept = f.name.ends_with(".log") || f.name.ends_with(".chunks") && !f.name.contains("/intake/");
                is_kept && have.get(&f.name) == Some(&f.bytes)
            };
            let (skipped, files): (Vec<_>, Vec<_>) = files.into_iter().partition(is_there);
            plan.skipped_bytes = skipped.iter().map(|f| f.bytes).sum();
            if !send(Ok(v1::BackupPart { plan: Some(plan), ..Default::default() })) {
                return;
            }
            for file in files {
                match copy(file, send) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        send(Err(storage(error)));
                        return;
                    }
                }
            }
        }))
    }
}

/// Sends a file; says whether the asker is still there.
fn copy(file: Copying, send: &dyn Fn(Result<v1::BackupPart, ServiceError>) -> bool) -> std::io::Result<bool> {
    let (name, bytes) = (file.name.clone(), file.bytes);
    let Some(mut from) = file.open()? else { return Ok(true) };
    let mut offset = 0;
    loop {
        let mut data = Vec::with_capacity(PIECE.min(bytes as usize));
        from.by_ref().take(PIECE as u64).read_to_end(&mut data)?;
        let end = offset + data.len() as u64;
        if data.is_empty() && end < bytes {
            return Err(std::io::Error::other(format!("{name} became shorter")));
        }
        let is_last = end >= bytes;
        if !send(Ok(v1::BackupPart { plan: None, name: name.clone(), offset, data, is_last })) {
            return Ok(false);
        }
        if is_last {
            return Ok(true);
        }
        offset = end;
    }
}
