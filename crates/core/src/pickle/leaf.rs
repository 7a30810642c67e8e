//! The instructions that make a value of the bytes after them.

use super::Value;
use super::codes::{
    BINFLOAT, BININT, BININT1, BININT2, BINUNICODE, BINUNICODE8, LONG1, NEWFALSE, NEWTRUE, NONE,
    SHORT_BINUNICODE, refusal,
};
use super::machine::{Machine, Refused};

impl<'a> Machine<'a> {
    /// Follows an instruction that makes a value of nothing on the stack.
    pub(super) fn leaf(&mut self, code: u8) -> Result<(), Refused> {
        match code {
            NONE => self.stack.push(Value::None),
            NEWTRUE => self.stack.push(Value::Bool(true)),
            NEWFALSE => self.stack.push(Value::Bool(false)),
            BININT | BININT1 | BININT2 | LONG1 => self.int(code)?,
            BINFLOAT => {
                let _: [u8; 8] = self.take()?;
                self.stack.push(Value::Float);
            }
            SHORT_BINUNICODE => {
                let [len] = self.take()?;
                self.string(len.into())?;
            }
            BINUNICODE => {
                let len = u32::from_le_bytes(self.take()?);
                self.string(len.into())?;
            }
            BINUNICODE8 => {
                let len = u64::from_le_bytes(self.take()?);
                self.string(len)?;
            }
            other => return Err(refusal(other).into()),
        }
        Ok(())
    }

    /// The next bytes.
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let taken = self.made.bytes.get(self.at..).and_then(|rest| rest.first_chunk()).copied();
        self.at += N;
        taken.ok_or_else(|| "the file is cut".into())
    }

    /// The next bytes up to the end of a line, and past it.
    pub(super) fn line(&mut self) -> Result<&'a str, Refused> {
        let rest = self.made.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or("the file is cut")?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| "a name that is not UTF-8".into())
    }

    fn string(&mut self, len: u64) -> Result<(), Refused> {
        let left = &self.made.bytes[self.at..];
        let text = usize::try_from(len).ok().and_then(|len| left.get(..len));
        let text =
            text.ok_or_else(|| format!("a string of {len} bytes is announced; {} are left", left.len()))?;
        std::str::from_utf8(text).map_err(|_| "a string that is not UTF-8")?;
        let to = self.at + text.len();
        self.stack.push(Value::Text(self.at, to));
        self.at = to;
        Ok(())
    }

    fn int(&mut self, code: u8) -> Result<(), Refused> {
        let value = match code {
            BININT => i32::from_le_bytes(self.take()?).into(),
            BININT2 => u16::from_le_bytes(self.take()?).into(),
            BININT1 => u8::from_le_bytes(self.take()?).into(),
            _ => {
                let [len] = self.take()?;
                if len > 8 {
                    return Err(format!("a whole number of {len} bytes; expected 8 at most").into());
                }
                let digits =
                    self.made.bytes.get(self.at..self.at + usize::from(len)).ok_or("the file is cut")?;
                self.at += digits.len();
                // Two's complement, little-endian: what is missing at the end is the sign.
                let sign = if digits.last().is_some_and(|&last| last >= 0x80) { 0xff } else { 0 };
                let mut number = [sign; 8];
                number[..digits.len()].copy_from_slice(digits);
                i64::from_le_bytes(number)
            }
        };
        self.stack.push(Value::Int(value));
        Ok(())
    }
}
