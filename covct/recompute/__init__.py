"""A result's figures derived anew from its masks and its source: nothing here is used to measure, and it imports none
of covct, so that a mistake would have to be made twice."""
