//! The instructions of pickles: the codes of those that are followed, and why each of the others is not.

pub const PROTO: u8 = 0x80;
pub const FRAME: u8 = 0x95;
pub const STOP: u8 = b'.';
pub const MARK: u8 = b'(';
pub const EMPTY_DICT: u8 = b'}';
pub const SETITEM: u8 = b's';
pub const SETITEMS: u8 = b'u';
pub const MEMOIZE: u8 = 0x94;
pub const BINPUT: u8 = b'q';
pub const LONG_BINPUT: u8 = b'r';
pub const BINGET: u8 = b'h';
pub const LONG_BINGET: u8 = b'j';
pub const SHORT_BINUNICODE: u8 = 0x8c;
pub const BINUNICODE: u8 = b'X';
pub const BINUNICODE8: u8 = 0x8d;
pub const BININT: u8 = b'J';
pub const BININT1: u8 = b'K';
pub const BININT2: u8 = b'M';
pub const LONG1: u8 = 0x8a;
pub const BINFLOAT: u8 = b'G';
pub const NONE: u8 = b'N';
pub const NEWTRUE: u8 = 0x88;
pub const NEWFALSE: u8 = 0x89;
pub const EMPTY_LIST: u8 = b']';
pub const APPEND: u8 = b'a';
pub const APPENDS: u8 = b'e';
pub const EMPTY_TUPLE: u8 = b')';
pub const TUPLE: u8 = b't';
pub const TUPLE1: u8 = 0x85;
pub const TUPLE2: u8 = 0x86;
pub const TUPLE3: u8 = 0x87;
pub const GLOBAL: u8 = b'c';
pub const STACK_GLOBAL: u8 = 0x93;
pub const REDUCE: u8 = b'R';
pub const BUILD: u8 = b'b';
pub const BINPERSID: u8 = b'Q';

/// Why an instruction is not followed.
pub(super) fn refusal(code: u8) -> String {
    let runs = |name: &str| {
        format!(
            "instruction {name} (0x{code:02x}) makes Python import names, call functions or build objects, and is not \
             followed"
        )
    };
    let other = |name: &str| {
        format!(
            "instruction {name} (0x{code:02x}) makes something else than dictionaries, lists, strings and numbers"
        )
    };
    match code {
        b'i' => runs("INST"),
        b'o' => runs("OBJ"),
        0x81 => runs("NEWOBJ"),
        0x92 => runs("NEWOBJ_EX"),
        0x82 => runs("EXT1"),
        0x83 => runs("EXT2"),
        0x84 => runs("EXT4"),
        b'P' => runs("PERSID"),
        BINPERSID => runs("BINPERSID"),
        0x97 => runs("NEXT_BUFFER"),
        0x98 => runs("READONLY_BUFFER"),
        PROTO => other("PROTO in the middle"),
        b'0' => other("POP"),
        b'1' => other("POP_MARK"),
        b'2' => other("DUP"),
        b'F' => other("FLOAT"),
        b'I' => other("INT"),
        b'L' => other("LONG"),
        0x8b => other("LONG4"),
        b'S' => other("STRING"),
        b'T' => other("BINSTRING"),
        b'U' => other("SHORT_BINSTRING"),
        b'B' => other("BINBYTES"),
        b'C' => other("SHORT_BINBYTES"),
        0x8e => other("BINBYTES8"),
        0x96 => other("BYTEARRAY8"),
        b'V' => other("UNICODE"),
        b'd' => other("DICT"),
        b'l' => other("LIST"),
        0x8f => other("EMPTY_SET"),
        0x90 => other("ADDITEMS"),
        0x91 => other("FROZENSET"),
        b'g' => other("GET"),
        b'p' => other("PUT"),
        _ => format!("byte 0x{code:02x} is no instruction of a pickle"),
    }
}
