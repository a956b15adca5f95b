//! `peers.m2.state.unfit = ...`: one place in a view.

use serde_json::Value;

/// Puts `value` at `path`, or takes away what is there if it is null.
///
/// In a list of walsenders a member's name stands for its place.
pub(crate) fn set(root: &mut Value, path: &str, value: Value) {
    let (parents, last) = path.rsplit_once('.').map_or((None, path), |(parents, last)| (Some(parents), last));
    let mut place = root;
    for step in parents.into_iter().flat_map(|parents| parents.split('.')) {
        place = match place {
            Value::Object(fields) => fields.get_mut(step),
            Value::Array(items) => index(items, step).and_then(|index| items.get_mut(index)),
            _ => None,
        }
        .unwrap_or_else(|| panic!("{path}: there is no {step}"));
    }
    match place {
        Value::Object(fields) if value.is_null() => {
            fields.remove(last);
        }
        Value::Object(fields) => {
            fields.insert(last.to_owned(), value);
        }
        Value::Array(items) => match index(items, last) {
            Some(index) if value.is_null() => {
                items.remove(index);
            }
            Some(index) => items[index] = value,
            None => panic!("{path}: there is no {last}"),
        },
        _ => panic!("{path}: {last} has no place in {place}"),
    }
}

fn index(items: &[Value], step: &str) -> Option<usize> {
    let of_member = |item: &Value| item.pointer("/voter/member").and_then(Value::as_str) == Some(step);
    step.parse().ok().filter(|index| *index < items.len()).or_else(|| items.iter().position(of_member))
}

/// Without the nulls: a field that is missing and one that is null are the same to serde's `Option`.
pub(crate) fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, field)| !field.is_null());
            Value::Object(kept.map(|(name, field)| (name.clone(), without_nulls(field))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}
