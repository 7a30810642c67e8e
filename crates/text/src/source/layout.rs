//! What is in a Parquet file's footer and in its pages' headers: the numbers of the fields, and their types.
//!
//! The crate `parquet` reads a field that it knows as what it should be, whatever the file says that it is.
//! From parquet.thrift of the Apache Parquet specification, without what that crate skips.

/// The type of a value; fields that are not listed can be of any.
pub(super) enum Type {
    Any,
    Bool,
    Byte,
    /// An integer of 16 to 64 bits, or a value of an enumeration.
    Varint,
    Double,
    Binary,
    List(&'static Type),
    Struct(&'static [(i16, Type)]),
}

use Type::{Binary, Bool, Byte, Double, List, Struct, Varint};

impl Type {
    /// Whether Thrift's type of this number is the one that is meant.
    pub(super) fn is(&self, kind: u8) -> bool {
        match self {
            Type::Any => true,
            Bool => matches!(kind, 1 | 2),
            Byte => kind == 3,
            Varint => matches!(kind, 4..=6),
            Double => kind == 7,
            Binary => kind == 8,
            List(_) => kind == 9,
            Struct(_) => kind == 12,
        }
    }

    /// The type of a field of this struct.
    pub(super) fn field(&self, number: i16) -> &Type {
        let Struct(fields) = self else { return &Type::Any };
        fields.iter().find(|(at, _)| *at == number).map_or(&Type::Any, |(_, kind)| kind)
    }

    /// The type of this list's elements.
    pub(super) fn element(&self) -> &Type {
        if let List(element) = self { element } else { &Type::Any }
    }
}

/// `FileMetaData`
pub(super) static FOOTER: Type = Struct(&[
    (1, Varint),
    (2, List(&SCHEMA_ELEMENT)),
    (3, Varint),
    (4, List(&ROW_GROUP)),
    (5, List(&KEY_VALUE)),
    (6, Binary),
    (7, List(&COLUMN_ORDER)),
]);

/// `PageHeader`
pub(super) static PAGE_HEADER: Type = Struct(&[
    (1, Varint),
    (2, Varint),
    (3, Varint),
    (4, Varint),
    (5, Struct(&[(1, Varint), (2, Varint), (3, Varint), (4, Varint), (5, STATISTICS)])),
    (6, EMPTY),
    (7, Struct(&[(1, Varint), (2, Varint), (3, Bool)])),
    (
        8,
        Struct(&[
            (1, Varint),
            (2, Varint),
            (3, Varint),
            (4, Varint),
            (5, Varint),
            (6, Varint),
            (7, Bool),
            (8, STATISTICS),
        ]),
    ),
]);

const EMPTY: Type = Struct(&[]);

static SCHEMA_ELEMENT: Type = Struct(&[
    (1, Varint),
    (2, Varint),
    (3, Varint),
    (4, Binary),
    (5, Varint),
    (6, Varint),
    (7, Varint),
    (8, Varint),
    (9, Varint),
    (10, LOGICAL_TYPE),
]);

const LOGICAL_TYPE: Type = Struct(&[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Struct(&[(1, Varint), (2, Varint)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Struct(&[(1, Byte), (2, Bool)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Struct(&[(1, Byte)])),
    (17, Struct(&[(1, Binary)])),
    (18, Struct(&[(1, Binary), (2, Varint)])),
]);

const TIME: Type = Struct(&[(1, Bool), (2, Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))]);

static ROW_GROUP: Type = Struct(&[
    (1, List(&COLUMN_CHUNK)),
    (2, Varint),
    (3, Varint),
    (4, List(&SORTING_COLUMN)),
    (5, Varint),
    (6, Varint),
    (7, Varint),
]);

static COLUMN_CHUNK: Type =
    Struct(&[(1, Binary), (2, Varint), (3, COLUMN), (4, Varint), (5, Varint), (6, Varint), (7, Varint)]);

const COLUMN: Type = Struct(&[
    (1, Varint),
    (2, List(&Varint)),
    (3, List(&Binary)),
    (4, Varint),
    (5, Varint),
    (6, Varint),
    (7, Varint),
    (8, List(&KEY_VALUE)),
    (9, Varint),
    (10, Varint),
    (11, Varint),
    (12, STATISTICS),
    (13, List(&Struct(&[(1, Varint), (2, Varint), (3, Varint)]))),
    (14, Varint),
    (15, Varint),
    (16, Struct(&[(1, Varint), (2, List(&Varint)), (3, List(&Varint))])),
    (17, Struct(&[(1, BOX), (2, List(&Varint))])),
]);

const STATISTICS: Type = Struct(&[
    (1, Binary),
    (2, Binary),
    (3, Varint),
    (4, Varint),
    (5, Binary),
    (6, Binary),
    (7, Bool),
    (8, Bool),
    (9, Varint),
]);

const BOX: Type = Struct(&[
    (1, Double),
    (2, Double),
    (3, Double),
    (4, Double),
    (5, Double),
    (6, Double),
    (7, Double),
    (8, Double),
]);

static KEY_VALUE: Type = Struct(&[(1, Binary), (2, Binary)]);
static SORTING_COLUMN: Type = Struct(&[(1, Varint), (2, Bool), (3, Bool)]);
static COLUMN_ORDER: Type = Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]);
