-- The figures, each with what is to be reached and what was measured beside it.

\pset footer off
\pset null ''
\a
\t off
SELECT what, bench.digits(value) AS value, unit, target, CASE WHEN is_reached THEN 'yes' WHEN NOT is_reached THEN 'NO' END AS reached, beside
FROM bench.rollup_figure ORDER BY figure_id;
