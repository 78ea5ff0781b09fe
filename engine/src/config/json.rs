//! From text to [`File`]: JSON as LKL's parser takes it, unknown keys by name, wrong values by path.

use super::Problem;
use super::file::File;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The JSON schema of the configuration file.
pub fn schema() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.into_generator().into_root_schema_for::<File>().to_value()
}

/// Reads an object; refuses repeated, unknown and mistyped keys, so that what is returned decodes.
pub fn parse(text: &str) -> Result<Map<String, Value>, Vec<Problem>> {
    let text = without_trailing_commas(text);
    let value: Value = serde_json::from_str(&text).map_err(|error| vec![Problem::new("", error)])?;
    let unknown = unknown_keys(&value);
    if !unknown.is_empty() {
        return Err(unknown);
    }
    // From the text and not from the value, since only the text still shows that a key is there twice.
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let decoded: Result<File, _> = serde_path_to_error::deserialize(&mut deserializer);
    decoded.map_err(|error| vec![wrong_value(error)])?;
    match value {
        Value::Object(map) => Ok(map),
        other => Err(vec![Problem::new("", format_args!("expected an object, found {other}"))]),
    }
}

/// Turns an object into the typed file.
pub fn decode(map: Map<String, Value>) -> Result<File, Problem> {
    serde_path_to_error::deserialize(Value::Object(map)).map_err(wrong_value)
}

fn wrong_value(error: serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let path = error.path().to_string();
    Problem::new(if path == "." { "" } else { &path }, error.inner())
}

/// Blanks commas that stand before a closing bracket, which LKL's parser lets pass. Positions in error messages stay
/// true because nothing moves.
fn without_trailing_commas(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut in_string = false;
    let mut escaped = false;
    let mut last_comma = None;
    for (index, &byte) in text.as_bytes().iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => {
                in_string = !in_string;
                last_comma = None;
            }
            _ if in_string => {}
            b',' => last_comma = Some(index),
            b'}' | b']' => {
                if let Some(comma) = last_comma.take() {
                    bytes[comma] = b' ';
                }
            }
            _ if byte.is_ascii_whitespace() => {}
            _ => last_comma = None,
        }
    }
    // Only ASCII commas were replaced, by ASCII blanks.
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// Every key that the schema does not have, with the nearest that it has at that place.
fn unknown_keys(value: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    walk(value, &schema(), "", &mut problems);
    problems
}

fn walk(value: &Value, schema: &Value, path: &str, problems: &mut Vec<Problem>) {
    // An optional object is written as one of several alternatives.
    if let Some(alternatives) = schema.get("anyOf").and_then(Value::as_array) {
        for alternative in alternatives {
            walk(value, alternative, path, problems);
        }
    }
    match value {
        Value::Object(map) => {
            let Some(known) = schema.get("properties").and_then(Value::as_object) else { return };
            for (key, inner) in map {
                let inner_path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(inner_schema) => walk(inner, inner_schema, &inner_path, problems),
                    None => problems.push(Problem::new(&inner_path, unknown(key, known.keys()))),
                }
            }
        }
        Value::Array(items) => {
            let Some(item_schema) = schema.get("items") else { return };
            for (index, item) in items.iter().enumerate() {
                walk(item, item_schema, &format!("{path}[{index}]"), problems);
            }
        }
        _ => {}
    }
}

fn unknown<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> String {
    match nearest(key, known.map(String::as_str)) {
        Some(nearest) => format!("unknown key `{key}`; the nearest known one is `{nearest}`"),
        None => format!("unknown key `{key}`"),
    }
}

/// The word of `known` that differs least from `word`.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let folded = word.to_lowercase();
    known.min_by_key(|candidate| strsim::osa_distance(&folded, &candidate.to_lowercase()))
}
