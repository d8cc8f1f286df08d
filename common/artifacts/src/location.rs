//! Where a store is: its address, read and opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::credentials;
use crate::error::StoreError;

/// A server that says nothing for so long is gone. A part of an upload has to be through by then.
const SILENCE: Duration = Duration::from_secs(60);
/// Failing requests are repeated for so long, at growing intervals.
const PATIENCE: Duration = Duration::from_secs(60);

/// An opened place.
pub(crate) struct Location {
    pub(crate) inner: Arc<dyn ObjectStore>,
    /// In front of all names.
    pub(crate) prefix: Key,
    /// Where it is, if it is a folder.
    pub(crate) folder: Option<PathBuf>,
    /// For people; without secrets.
    pub(crate) shown: String,
}

/// Environment variables.
pub(crate) type Environment = BTreeMap<String, String>;

/// Opens what `text` names: a folder by its path or `file://` address, or `s3://BUCKET/PREFIX`.
pub(crate) fn open(text: &str, environment: &Environment) -> Result<Location, StoreError> {
    let Ok(url) = Url::parse(text) else { return folder(Path::new(text), text) };
    match url.scheme() {
        "file" => {
            let whole = text.starts_with("file:///").then(|| url.to_file_path().ok()).flatten();
            let hint = "; a folder is named by its whole path, after three slashes";
            folder(&whole.ok_or_else(|| address(text, hint))?, text)
        }
        "s3" | "s3a" => s3(&url, environment),
        // A path such as "c:backup"; nobody means that here.
        _ => Err(address(&without_secrets(&url), "")),
    }
}

fn address(found: &str, hint: &str) -> StoreError {
    StoreError::Address { found: found.to_owned(), hint: hint.to_owned() }
}

fn without_secrets(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

fn folder(path: &Path, text: &str) -> Result<Location, StoreError> {
    if text.is_empty() {
        return Err(address(text, ""));
    }
    let failed = |why: String| StoreError::Open { store: path.display().to_string(), why };
    std::fs::create_dir_all(path).map_err(|e| failed(e.to_string()))?;
    let whole: PathBuf = path.canonicalize().map_err(|e| failed(e.to_string()))?;
    let inner = LocalFileSystem::new_with_prefix(&whole)
        .map_err(|e| failed(e.to_string()))?
        .with_automatic_cleanup(true)
        .with_fsync(true);
    let shown = whole.display().to_string();
    Ok(Location { inner: Arc::new(inner), prefix: Key::default(), folder: Some(whole), shown })
}

fn s3(url: &Url, environment: &Environment) -> Result<Location, StoreError> {
    let shown = without_secrets(url);
    if url.password().is_some() || !url.username().is_empty() {
        return Err(address(
            &shown,
            "; credentials do not belong into an address: put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
             into the file that AWS_SHARED_CREDENTIALS_FILE names",
        ));
    }
    let bucket = url.host_str().filter(|b| !b.is_empty()).ok_or_else(|| address(&shown, "; the bucket is missing"))?;
    let failed = |why: String| StoreError::Open { store: shown.clone(), why };
    let settings = environment.iter().filter(|(key, _)| key.starts_with("AWS_"));
    let settings = settings.filter_map(|(key, value)| Some((key.to_ascii_lowercase().parse().ok()?, value)));
    let mut builder = settings.fold(AmazonS3Builder::new(), |b, (key, value)| b.with_config(key, value));
    // Not every store knows the bulk form, and things are removed one at a time here.
    builder = builder.with_bucket_name(bucket).with_disable_bulk_delete(true);
    let mut options = ClientOptions::new()
        .with_timeout_disabled()
        .with_read_timeout(SILENCE)
        .with_connect_timeout(Duration::from_secs(10));
    for (key, value) in url.query_pairs() {
        match &*key {
            "endpoint" => builder = builder.with_endpoint(value),
            "region" => builder = builder.with_region(value),
            _ => {
                let hint = format!("; the options of s3:// are ?endpoint=URL and &region=NAME, found \"{key}\"");
                return Err(address(&shown, &hint));
            }
        }
    }
    let known = |key| builder.get_config_value(&key);
    // An endpoint that is http:// was meant to be; AWS's own are never.
    if known(AmazonS3ConfigKey::Endpoint).is_some_and(|e| e.starts_with("http://")) {
        options = options.with_allow_http(true);
    }
    if known(AmazonS3ConfigKey::AccessKeyId).is_none()
        && let Some(found) = credentials::shared(|key| environment.get(key).cloned()).map_err(failed)?
    {
        builder = builder.with_access_key_id(found.key_id).with_secret_access_key(found.secret);
        builder = found.token.into_iter().fold(builder, AmazonS3Builder::with_token);
    }
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_secs(10),
        ..BackoffConfig::default()
    };
    let retry = RetryConfig { backoff, max_retries: 8, retry_timeout: PATIENCE };
    // TLS needs to be told whose arithmetic it uses, once per process; whoever came first is right.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let inner = builder
        .with_client_options(options)
        .with_retry(retry)
        .build()
        .map_err(|e| StoreError::Open { store: shown.clone(), why: e.to_string() })?;
    // As the store has it: an address may have characters that are escaped in it, and doubled slashes.
    let parts: Vec<&str> = url.path().split('/').filter(|part| !part.is_empty()).collect();
    let prefix = Key::from_url_path(parts.join("/")).map_err(|e| address(&shown, &format!("; {e}")))?;
    Ok(Location { inner: Arc::new(inner), prefix, folder: None, shown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_says_what_was_expected_and_shows_no_secret() {
        let message = |text: &str| match open(text, &Environment::new()) {
            Ok(_) => panic!("{text} opens"),
            Err(error) => error.to_string(),
        };
        assert!(message("gopher://x").contains("file:///srv/fleet or s3://bucket/prefix"));
        assert!(message("").contains("expected the address of a store"));
        assert!(
            message("file:relative").contains("three slashes") && message("file://host/x").contains("three slashes")
        );
        let told = message("s3://key:hunter2@bucket/p");
        assert!(told.contains("AWS_SECRET_ACCESS_KEY") && !told.contains("hunter2"), "{told}");
        assert!(message("s3:///prefix").contains("bucket is missing"));
        assert!(message("s3://bucket/p?endpiont=http://h").contains("endpiont"));
    }

    #[test]
    fn a_folder_is_made_and_named_by_its_path_or_its_address() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a/b");
        for text in [path.display().to_string(), format!("file://{}", path.display())] {
            let location = open(&text, &Environment::new()).expect("a folder");
            assert!(location.shown.ends_with("a/b") && path.is_dir());
        }
    }
}
