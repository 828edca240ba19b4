//! `service_tier`: what goes upstream, and what the answer says. The app-server does not tell which tier a
//! response was served in: the answer has the one that was sent.

use super::error::ApiError;
use super::ignored::Ignored;
use super::read::Fields;

/// A request's tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tier {
    /// For the backend; `None` for its default.
    pub(crate) sent: Option<&'static str>,
    /// For the answer; `None` where the request named none.
    pub(crate) shown: Option<&'static str>,
}

impl Tier {
    /// Reads it, `allowed` being the API's own list.
    pub(crate) fn read(
        body: &mut Fields,
        allowed: &'static [&'static str],
        ignored: &mut Ignored,
    ) -> Result<Self, ApiError> {
        let asked = body.one_of("service_tier", allowed)?;
        let (sent, shown) = match asked {
            None => (None, None),
            Some("flex") => (asked, Some("flex")),
            // Two names of one tier, of which answers have the second.
            Some("fast" | "priority") => (asked, Some("priority")),
            Some("auto" | "default") => (None, Some("default")),
            // The app-server sends no other.
            Some(_) => {
                ignored.add("service_tier");
                (None, Some("default"))
            }
        };
        Ok(Self { sent, shown })
    }
}
