"""One scorer per kind of answer: pure functions of an item and a reply."""
