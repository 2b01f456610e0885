//! From a URL, a few settings and credentials to a store.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};
use tokio::runtime::Handle;

use super::Bucket;

/// A whole request, of which none moves more than a part.
const REQUEST_DEADLINE: Duration = Duration::from_secs(60);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Tries after the first one, and for how long: whoever waits has a deadline, too.
const RETRIES_MAX: usize = 6;
const RETRY_DEADLINE: Duration = Duration::from_secs(45);

/// Where a bucket is and how to get in.
#[derive(Clone, Default)]
pub struct BucketSettings {
    /// `s3://BUCKET[/PREFIX]`, `gs://BUCKET[/PREFIX]`, `az://CONTAINER[/PREFIX]` or
    /// `file:///DIRECTORY`.
    pub url: String,
    /// Of a store that is not the provider's own: `https://HOST[:PORT]`.
    pub endpoint: Option<String>,
    /// S3 only.
    pub region: Option<String>,
    /// Whether the endpoint may be `http://`.
    pub allow_http: bool,
    /// Certificates that the endpoint's may be signed by besides those of the system, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Credentials and other options, by the names that the provider's own tools know from the
    /// environment (`AWS_ACCESS_KEY_ID`, `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_ACCOUNT_KEY` …).
    /// Never printed.
    pub options: BTreeMap<String, String>,
}

impl fmt::Debug for BucketSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketSettings")
            .field("url", &self.url)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("options", &self.options.keys())
            .finish_non_exhaustive()
    }
}

/// Why settings make no bucket.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

fn wrong(what: impl Into<String>) -> SettingsError {
    SettingsError(what.into())
}

/// Which kind of store a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    S3,
    Gcs,
    Azure,
    File,
}

/// A URL in its parts: the scheme, the bucket (empty for a directory), and the rest.
fn parts(url: &str) -> Result<(Scheme, &str, &str), SettingsError> {
    let form = || {
        wrong(format!(
            "url: {url:?} is none of s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, \
             az://CONTAINER/PREFIX and file:///DIRECTORY; write it as one of them"
        ))
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(form)?;
    let scheme = match scheme {
        "s3" => Scheme::S3,
        "gs" => Scheme::Gcs,
        "az" => Scheme::Azure,
        "file" => Scheme::File,
        _ => return Err(form()),
    };
    if rest.contains(['?', '#', '@']) || rest.chars().any(char::is_control) {
        return Err(wrong("url: it holds one of ? # @; credentials and options go elsewhere"));
    }
    if scheme == Scheme::File {
        return if rest.starts_with('/') { Ok((scheme, "", rest)) } else { Err(form()) };
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() { Err(form()) } else { Ok((scheme, bucket, prefix.trim_end_matches('/'))) }
}

impl BucketSettings {
    /// What is wrong with the URL, without asking anybody.
    ///
    /// # Errors
    /// In words, with the remedy.
    pub fn check(&self) -> Result<(), SettingsError> {
        let (scheme, _, prefix) = parts(&self.url)?;
        if scheme != Scheme::File {
            Path::parse(prefix).map_err(|error| wrong(format!("url: its prefix: {error}")))?;
        }
        if let Some(endpoint) = &self.endpoint {
            let is_http = endpoint.starts_with("http://");
            if !is_http && !endpoint.starts_with("https://") {
                return Err(wrong(format!(
                    "endpoint: {endpoint:?} is no URL; write it as https://HOST:PORT"
                )));
            }
            if is_http && !self.allow_http {
                return Err(wrong(
                    "endpoint: it is http://, where anybody on the way can change what is read; \
                     use https://, or say allow_http = true",
                ));
            }
        }
        Ok(())
    }

    /// Options from the text of a credentials file: lines `NAME=VALUE`, empty ones, and comments
    /// after `#`.
    ///
    /// # Errors
    /// Which line is none of them; its text is not repeated, it may be a secret.
    pub fn read_options(text: &str) -> Result<BTreeMap<String, String>, SettingsError> {
        let mut options = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once('=').ok_or_else(|| {
                wrong(format!("credentials: line {} is not NAME=VALUE; write it so", at + 1))
            })?;
            let value = value.trim();
            let unquoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            options.insert(name.trim().to_owned(), unquoted.unwrap_or(value).to_owned());
        }
        Ok(options)
    }

    /// Whether a variable of the environment is one that stores read options from.
    #[must_use]
    pub fn is_option(name: &str) -> bool {
        ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix))
    }

    fn known<K: FromStr>(&self) -> impl Iterator<Item = (K, &String)> {
        let keys = self.options.iter();
        keys.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)))
    }

    fn client(&self) -> Result<ClientOptions, SettingsError> {
        let mut client = ClientOptions::new()
            .with_timeout(REQUEST_DEADLINE)
            .with_connect_timeout(CONNECT_DEADLINE)
            .with_allow_http(self.allow_http);
        if let Some(pem) = &self.ca_pem {
            let certificates = Certificate::from_pem_bundle(pem)
                .map_err(|error| wrong(format!("ca: no PEM certificates ({error})")))?;
            for certificate in certificates {
                client = client.with_root_certificate(certificate);
            }
        }
        Ok(client)
    }
}

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_DEADLINE,
    }
}

impl Bucket {
    /// Opens a bucket; asks nobody yet.
    ///
    /// # Errors
    /// When the settings make no sense, or a directory does not exist.
    pub fn open(settings: &BucketSettings, runtime: Handle) -> Result<Self, SettingsError> {
        settings.check()?;
        let (scheme, name, prefix) = parts(&settings.url)?;
        let unusable = |error: object_store::Error| wrong(super::reason(&error));
        let (store, prefix): (Arc<dyn ObjectStore>, &str) = match scheme {
            Scheme::S3 => {
                let mut builder = AmazonS3Builder::new();
                for (key, value) in settings.known::<AmazonS3ConfigKey>() {
                    builder = builder.with_config(key, value);
                }
                if let Some(endpoint) = &settings.endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                if let Some(region) = &settings.region {
                    builder = builder.with_region(region);
                }
                let builder = builder.with_bucket_name(name).with_allow_http(settings.allow_http);
                let builder = builder.with_client_options(settings.client()?).with_retry(retry());
                (Arc::new(builder.build().map_err(unusable)?), prefix)
            }
            Scheme::Gcs => {
                let mut builder = GoogleCloudStorageBuilder::new();
                for (key, value) in settings.known::<GoogleConfigKey>() {
                    builder = builder.with_config(key, value);
                }
                if let Some(endpoint) = &settings.endpoint {
                    builder = builder.with_base_url(endpoint);
                }
                let builder = builder.with_bucket_name(name);
                let builder = builder.with_client_options(settings.client()?).with_retry(retry());
                (Arc::new(builder.build().map_err(unusable)?), prefix)
            }
            Scheme::Azure => {
                let mut builder = MicrosoftAzureBuilder::new();
                for (key, value) in settings.known::<AzureConfigKey>() {
                    builder = builder.with_config(key, value);
                }
                if let Some(endpoint) = &settings.endpoint {
                    builder = builder.with_endpoint(endpoint.clone());
                }
                let builder =
                    builder.with_container_name(name).with_allow_http(settings.allow_http);
                let builder = builder.with_client_options(settings.client()?).with_retry(retry());
                (Arc::new(builder.build().map_err(unusable)?), prefix)
            }
            Scheme::File => {
                let store = LocalFileSystem::new_with_prefix(prefix).map_err(|error| {
                    wrong(format!("url: {}; make the directory first", super::reason(&error)))
                })?;
                (Arc::new(store.with_fsync(true)), "")
            }
        };
        Ok(Self { store, prefix: Path::from(prefix), runtime, shown: settings.url.clone().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> BucketSettings {
        BucketSettings { url: url.to_owned(), ..BucketSettings::default() }
    }

    #[test]
    fn urls_are_taken_apart_and_others_are_refused_in_words() {
        assert_eq!(parts("s3://b/a/c/").unwrap(), (Scheme::S3, "b", "a/c"));
        assert_eq!(parts("gs://b").unwrap(), (Scheme::Gcs, "b", ""));
        assert_eq!(parts("az://c/x").unwrap(), (Scheme::Azure, "c", "x"));
        assert_eq!(parts("file:///var/x").unwrap(), (Scheme::File, "", "/var/x"));
        for url in
            ["", "b", "s3://", "s3:///x", "file://x", "ftp://b/x", "s3://k:s@b/x", "s3://b/x?y"]
        {
            let error = settings(url).check().unwrap_err().to_string();
            assert!(error.starts_with("url: "), "{url}: {error}");
        }
        let mut http = settings("s3://b");
        http.endpoint = Some("http://127.0.0.1:9000".to_owned());
        assert!(http.check().unwrap_err().to_string().contains("allow_http"));
        http.allow_http = true;
        http.check().unwrap();
    }

    #[test]
    fn credentials_are_read_and_never_shown() {
        let text =
            "# of the backup user\nAWS_ACCESS_KEY_ID = me\n\nAWS_SECRET_ACCESS_KEY=\"s=3cret\"\n";
        let options = BucketSettings::read_options(text).unwrap();
        assert_eq!(options["AWS_SECRET_ACCESS_KEY"], "s=3cret");
        let settings = BucketSettings { options, ..settings("s3://b") };
        let shown = format!("{settings:?}");
        assert!(shown.contains("AWS_ACCESS_KEY_ID") && !shown.contains("3cret"), "{shown}");
        let error = BucketSettings::read_options("ok=1\nhunter2").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    }
}
