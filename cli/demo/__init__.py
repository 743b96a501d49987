"""`./kap demo`: patients go through a whole KAP course, and their record flows over Kafka into a hospital."""
