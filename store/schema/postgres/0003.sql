-- For the chart, which reads few of an hour's lines.
CREATE INDEX usage_hours_chart ON usage_hours (hour) WHERE kind IN ('outcome', 'model');
