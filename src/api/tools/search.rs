//! Web search: the tool of the Responses API, and the options of Chat Completions.

use serde_json::{Map, Value, json};

use crate::api::error::ApiError;
use crate::api::ignored::Ignored;
use crate::api::read::{Fields, missing, wrong_type};
use crate::model::{Location, WebSearch};

/// Most domains of one search, as the official bound.
const MAX_DOMAINS: usize = 100;
const SIZES: &[&str] = &["low", "medium", "high"];

/// The tool, and how the Responses API repeats it.
pub(super) fn tool(
    kind: &str,
    mut from: Fields,
    ignored: &mut Ignored,
) -> Result<(WebSearch, Value), ApiError> {
    let live = from.boolean("external_web_access")?.unwrap_or(true);
    let allowed_domains = from.object("filters")?.map(domains).transpose()?.flatten();
    let location = from.object("user_location")?.map(|location| place(location, ignored)).transpose()?;
    let context_size = from.one_of("search_context_size", SIZES)?;
    ignored.add_rest("tools[]", from);

    let mut echo = Map::new();
    echo.insert("type".into(), kind.into());
    // Previews have neither.
    if !kind.starts_with("web_search_preview") {
        if !live {
            echo.insert("external_web_access".into(), false.into());
        }
        if let Some(domains) = &allowed_domains {
            echo.insert("filters".into(), json!({ "allowed_domains": domains }));
        }
    }
    if let Some(Location { country, region, city, timezone }) = &location {
        let place = json!({
            "type": "approximate", "country": country, "region": region, "city": city, "timezone": timezone,
        });
        echo.insert("user_location".into(), place);
    }
    if let Some(size) = context_size {
        echo.insert("search_context_size".into(), size.into());
    }
    Ok((WebSearch { live, context_size, allowed_domains, location }, Value::Object(echo)))
}

/// `web_search_options`.
pub(crate) fn options(from: &mut Fields, ignored: &mut Ignored) -> Result<WebSearch, ApiError> {
    let location = match from.object("user_location")? {
        Some(mut location) => {
            location.one_of("type", &["approximate"])?.ok_or_else(|| missing(location.param("type")))?;
            let approximate = location.object("approximate")?;
            let approximate = approximate.ok_or_else(|| missing(location.param("approximate")))?;
            ignored.add_rest("web_search_options.user_location", location);
            Some(place(approximate, ignored)?)
        }
        None => None,
    };
    let context_size = from.one_of("search_context_size", SIZES)?;
    Ok(WebSearch { context_size, location, ..WebSearch::default() })
}

/// `filters`; none of them may be left out: the search would find what it must not.
fn domains(mut from: Fields) -> Result<Option<Vec<String>>, ApiError> {
    let path = from.param("allowed_domains");
    let given = from.array("allowed_domains")?.unwrap_or_default();
    if given.len() > MAX_DOMAINS {
        let message = format!("Invalid '{path}': expected at most {MAX_DOMAINS} domains.");
        return Err(ApiError::invalid(path, message).with_code("array_above_max_length"));
    }
    let domain = |(index, domain): (usize, Value)| match domain {
        Value::String(domain) => Ok(domain),
        other => Err(wrong_type(format!("{path}[{index}]"), "a string", &other)),
    };
    let domains = given.into_iter().enumerate().map(domain).collect::<Result<Vec<_>, _>>()?;
    let path = from.path().to_owned();
    if let Some((name, _)) = from.rest().iter().find(|(_, filter)| !filter.is_null()) {
        let message = format!("Searches cannot be limited by '{name}' here, only by 'allowed_domains'.");
        return Err(ApiError::unsupported(format!("{path}.{name}"), message));
    }
    Ok((!domains.is_empty()).then_some(domains))
}

fn place(mut from: Fields, ignored: &mut Ignored) -> Result<Location, ApiError> {
    from.one_of("type", &["approximate"])?;
    let location = Location {
        country: from.string("country")?,
        region: from.string("region")?,
        city: from.string("city")?,
        timezone: from.string("timezone")?,
    };
    ignored.add_rest("user_location", from);
    Ok(location)
}
