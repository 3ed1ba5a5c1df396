"""The code interpreter's API: `/api/v1/execute` and its sisters, one session for each `user_uuid`."""
