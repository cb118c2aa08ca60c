//! The JSON Schema of JSON lines, made from the same columns the lines are made from.

use serde_json::{Map, Value, json};

use super::SCHEMA_VERSION;
use super::row::{Column, ColumnType};
use super::table::Table;
use crate::event::Kind;

/// The schema (draft 2020-12) that every line of the JSON lines export satisfies.
#[must_use]
pub fn json_schema() -> Value {
    let records: Vec<Value> =
        std::iter::once(header()).chain(Table::ALL.iter().map(|&table| record(table))).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kvmdirty-trace export, JSON lines",
        "description": format!(
            "One line of `kvmdirty-trace export --format jsonl`, schema version {SCHEMA_VERSION}."
        ),
        "oneOf": records,
    })
}

fn record(table: Table) -> Value {
    let mut properties = Map::new();
    properties.insert(String::from("type"), json!({ "const": table.row_name() }));
    for column in table.columns() {
        properties.insert(column.name.to_owned(), property(column));
    }
    if table == Table::Events {
        let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        properties["kind"]["enum"] = json!(kinds);
    }
    let required: Vec<_> = std::iter::once("type")
        .chain(table.columns().iter().filter(|column| !column.nullable).map(|column| column.name))
        .collect();
    json!({
        "type": "object",
        "title": table.row_name(),
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn property(column: &Column) -> Value {
    let mut property = match column.ty {
        // The one list: words of a set in a fixed order.
        ColumnType::Text if column.name == "flags" => {
            json!({ "type": "array", "items": { "type": "string" } })
        }
        ColumnType::Unsigned | ColumnType::Time => json!({ "type": "integer", "minimum": 0 }),
        ColumnType::Signed => json!({ "type": "integer" }),
        ColumnType::Bits => json!({ "type": "string", "pattern": "^0x[0-9a-f]+$" }),
        ColumnType::Bool => json!({ "type": "boolean" }),
        ColumnType::Text => json!({ "type": "string" }),
        ColumnType::Json => json!({ "type": "object" }),
    };
    property["description"] = json!(column.doc);
    property
}

fn header() -> Value {
    json!({
        "type": "object",
        "title": "header",
        "properties": {
            "type": { "const": "header" },
            "schema": { "const": SCHEMA_VERSION },
            "tool": { "type": "string" },
            "version": { "type": "string" },
            "host": { "type": "string", "description": "Name of the host, empty if not recorded." },
            "kernel": { "type": "string", "description": "uname -r of the traced kernel." },
            "clock": { "const": "monotonic" },
            "epsilon_ns": { "type": "integer", "minimum": 0, "description": "Clock uncertainty between two CPUs." },
            "plan": { "type": "object", "description": "What was observable: one entry per operation." },
        },
        "required": ["type", "schema", "tool", "version", "host", "kernel", "clock", "epsilon_ns", "plan"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_schema_with_its_required_columns() {
        let schema = json_schema();
        let records = schema["oneOf"].as_array().unwrap();
        assert_eq!(records.len(), Table::ALL.len() + 1);
        let window = records.iter().find(|record| record["title"] == "window").unwrap();
        assert_eq!(
            window["required"],
            json!(["type", "kind", "opened_ns", "vm", "slot", "gfn", "tid", "harvests_inside"])
        );
        assert_eq!(window["properties"]["vm"]["pattern"], "^0x[0-9a-f]+$");
    }
}
