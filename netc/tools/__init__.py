"""What the commands that look at nets work out: costs, likely mistakes, deploy nets, drawings, timings."""
