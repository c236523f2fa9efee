"""What tests share: a test file imports from here, from covct and from the campaigns, never from another test."""
