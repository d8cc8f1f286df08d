//! Who may do what: certificates given out and taken back, the table of methods and roles, and the layer that asks both
//! of them before a request gets any further.
//!
//! | file | |
//! |---|---|
//! | `table` | which role may call which method: the one place where that is decided |
//! | `guard` | the layer in front of the services |
//! | `ledger` | what was given out and taken back, in a file |
//! | `office` | tokens, joining, renewal, revocation |
//! | `keep` | what a running coordinator does about all that |
//! | `caller` | whom a request comes from |

mod caller;
mod guard;
mod keep;
mod ledger;
mod office;
mod table;

pub(crate) use caller::Caller;
pub use guard::Guard;
pub use keep::Security;
pub use ledger::{Issue, LedgerError, Token};
pub use office::{Certificate, Office, OfficeError, Revoked, address_hint};
pub use table::{Kind, Rule, rule};
