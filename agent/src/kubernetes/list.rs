//! Paged lists: pages of bounded size at one resource version; where a continue token has expired,
//! the list begins anew.

use ::kube::api::{ListParams, Request};
use serde::Deserialize;
use serde_json::Value;

use super::api::{Api, ApiFailure};
use super::kinds::Kind;

const PAGE_FIRST: u32 = 100;
const PAGE_MIN: u32 = 5;
const PAGE_MAX: u32 = 500;
/// A page is some of this: objects may be 1.5 MiB each.
const PAGE_BYTES: usize = 4 << 20;
/// A token lives five minutes: a list that loses it so often is too slow for pages.
const RESTARTS_MAX: u32 = 3;

/// A page of a list.
#[derive(Debug, Deserialize)]
struct Page {
    metadata: PageMetadata,
    #[serde(default)]
    items: Option<Vec<Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    next: Option<String>,
    #[serde(default)]
    resource_version: Option<String>,
}

/// What a reader is told of a list.
pub(crate) enum Listed {
    /// The list begins, or begins anew: what came before does not count.
    Begin,
    /// An object.
    Object(Box<Value>),
}

/// Which objects are listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Which {
    pub(crate) namespace: Option<String>,
    /// A label selector; empty: all.
    pub(crate) labels: String,
}

/// A list that is read page by page.
pub(crate) struct Lister {
    api: Api,
    kind: Kind,
    which: Which,
    limit: u32,
    token: Option<String>,
    begun: bool,
    restarts: u32,
    /// The version that the list is of; empty before the first page.
    pub(crate) version: String,
}

impl Lister {
    pub(crate) fn new(api: &Api, kind: &Kind, which: Which) -> Self {
        Self {
            api: api.clone(),
            kind: kind.clone(),
            which,
            limit: PAGE_FIRST,
            token: None,
            begun: false,
            restarts: 0,
            version: String::new(),
        }
    }

    /// Reads all pages.
    pub(crate) async fn all(mut self, mut each: impl FnMut(Listed)) -> Result<String, ApiFailure> {
        while let Some(objects) = self.page(&mut each).await? {
            objects.into_iter().for_each(|object| each(Listed::Object(Box::new(object))));
        }
        Ok(self.version)
    }

    /// The next page; `None` after the last.
    pub(crate) async fn page(
        &mut self,
        each: &mut impl FnMut(Listed),
    ) -> Result<Option<Vec<Value>>, ApiFailure> {
        loop {
            if self.begun && self.token.is_none() {
                return Ok(None);
            }
            if !self.begun {
                each(Listed::Begin);
            }
            let parameters = ListParams {
                label_selector: (!self.which.labels.is_empty()).then(|| self.which.labels.clone()),
                limit: (self.restarts < RESTARTS_MAX).then_some(self.limit),
                continue_token: self.token.clone(),
                ..ListParams::default()
            };
            let url = self.kind.url(self.which.namespace.as_deref());
            let asked = self.kind.asked("list", self.which.namespace.as_deref());
            let list = || Request::new(url.clone()).list(&parameters);
            let text = match self.api.ask_text(&asked, list).await {
                Ok(text) => text,
                Err(ApiFailure::Gone) if self.begun && self.restarts < RESTARTS_MAX => {
                    tracing::info!(resource = asked.resource, "a list's token expired: begun anew");
                    self.restarts += 1;
                    self.token = None;
                    self.begun = false;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let page: Page = serde_json::from_str(&text)
                .map_err(|error| ApiFailure::Answer(format!("column {}", error.column())))?;
            self.limit = next_limit(self.limit, text.len());
            self.begun = true;
            self.token = page.metadata.next.filter(|token| !token.is_empty());
            if let Some(version) = page.metadata.resource_version {
                self.version = version;
            }
            return Ok(Some(page.items.unwrap_or_default()));
        }
    }
}

/// How many objects the next page may have, after one of so many bytes.
fn next_limit(limit: u32, bytes: usize) -> u32 {
    if bytes > PAGE_BYTES {
        let share = u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX).saturating_add(1);
        (limit / share).max(PAGE_MIN)
    } else if bytes < PAGE_BYTES / 2 {
        limit.saturating_mul(2).min(PAGE_MAX)
    } else {
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_pages_grow_and_shrink_with_what_is_in_them() {
        for (limit, bytes, expected) in [
            (100, 1000, 200),
            (400, 1000, 500),
            (500, 1 << 20, 500),
            (100, 3 << 20, 100),
            (100, 5 << 20, 50),
            (100, 100 << 20, 5),
        ] {
            assert_eq!(next_limit(limit, bytes), expected, "{limit} {bytes}");
        }
    }
}
