"""Tables, figures and the page. Imports no other package: steps hand over plain frames."""
