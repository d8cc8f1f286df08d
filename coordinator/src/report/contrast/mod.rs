//! The levels of one factor side by side.
//!
//! | module | what it holds |
//! |---|---|
//! | `words` | names of combinations, agreements and refusals, for the terminal and the page |
//! | `findings` | the sentences at the top of the page |
//! | `terminal` | tables of text |
//!
//! The page is in `report/page/contrast`.

pub(super) mod findings;
mod terminal;
pub(super) mod words;

pub use terminal::contrast;
