//! The schema and the encodings of a table's file.

use std::sync::Arc;

use ::parquet::basic::{
    Compression, Encoding, LogicalType, Repetition, Type as Physical, ZstdLevel,
};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{KeyValue, SortingColumn};
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::schema::types::{ColumnPath, Type, TypePtr};

use crate::export::row::{Column, ColumnType};
use crate::export::table::Table;
use crate::export::{ExportError, Origin, SCHEMA_VERSION};

/// Columns before those of the table.
pub(super) const FIXED: [&str; 2] = ["host", "kernel"];

/// The schema of a table.
pub(super) fn schema(table: Table) -> Result<TypePtr, ParquetError> {
    let fixed = FIXED.iter().map(|name| field(name, ColumnType::Text, false));
    let own = table.columns().iter().map(|column| field(column.name, column.ty, column.nullable));
    let fields = fixed.chain(own).collect::<Result<Vec<TypePtr>, ParquetError>>()?;
    Type::group_type_builder(table.name()).with_fields(fields).build().map(Arc::new)
}

fn field(name: &str, ty: ColumnType, nullable: bool) -> Result<TypePtr, ParquetError> {
    let integer = |is_signed| Some(LogicalType::integer(64, is_signed));
    let (physical, logical) = match ty {
        ColumnType::Unsigned | ColumnType::Time | ColumnType::Bits => {
            (Physical::INT64, integer(false))
        }
        ColumnType::Signed => (Physical::INT64, integer(true)),
        ColumnType::Bool => (Physical::BOOLEAN, None),
        ColumnType::Text | ColumnType::Json => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
    };
    let repetition = if nullable { Repetition::OPTIONAL } else { Repetition::REQUIRED };
    Type::primitive_type_builder(name, physical)
        .with_repetition(repetition)
        .with_logical_type(logical)
        .build()
        .map(Arc::new)
}

/// Encodings, compression, statistics, and what the whole file has in common.
pub(super) fn properties(table: Table, origin: &Origin) -> Result<WriterProperties, ExportError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_created_by(format!("kvmdirty-trace {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(metadata(origin)?))
        .set_sorting_columns(sorted_by(table.columns()).map(|idx| {
            let column_idx = i32::try_from(FIXED.len() + idx).expect("a table has few columns");
            vec![SortingColumn { column_idx, descending: false, nulls_first: false }]
        }));
    for column in table.columns() {
        if is_delta_packed(column) {
            let path = ColumnPath::from(column.name);
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    Ok(properties.build())
}

/// Times and numbers that mostly grow; everything else repeats and is better off with a dictionary.
fn is_delta_packed(column: &Column) -> bool {
    column.ty == ColumnType::Time || matches!(column.name, "gfn" | "seq" | "harvest")
}

/// The first time column.
pub(super) fn sorted_by(columns: &[Column]) -> Option<usize> {
    columns.iter().position(|column| column.ty == ColumnType::Time)
}

fn metadata(origin: &Origin) -> Result<Vec<KeyValue>, ExportError> {
    let entry = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
    Ok(vec![
        entry("schema_version", SCHEMA_VERSION.to_string()),
        entry("clock", String::from("monotonic")),
        entry("epsilon_ns", origin.setup.epsilon_ns.to_string()),
        entry("plan", serde_json::to_string(&origin.setup.plan)?),
    ])
}
